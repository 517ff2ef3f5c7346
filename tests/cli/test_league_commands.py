"""What the user of a league types: league, status, match, watch, report, on a real run of Connect Four."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import imageio_ffmpeg
import matplotlib.image
import pytest
import yaml
from commands import SMALL_NET, TINY, Command

from machina.cli import league_command
from machina.envs.games.table import GAMES
from machina.registry import shipped_configurations

SNAPSHOTS = ("u000002", "u000004", "u000006")

LEAGUE = (
    *TINY,
    *("--config", "defaults", "--torso", "mlp", *SMALL_NET, "--envs-per-task", "8", "--unroll-length", "16"),
    *("--batch-size", "16", "--minibatches", "2", "--epochs", "1", "--learning-rate", "0.02"),
    *("--snapshot-updates", "2", "--rating-games", "4", "--total-frames", "1536"),
)
"""6 updates, 3 snapshots."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A league; tests that write into its folder take a copy of it."""
    folder = tmp_path_factory.mktemp("league")
    assert league_command.run(["connect_four", *LEAGUE, "--runs-dir", str(folder), "--name", "league"]) == 0
    return folder / "league"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return Command(capsys, tmp_path)


@pytest.fixture
def run(cli: Command, trained: Path) -> Path:
    """The league, named as users do: relative to where they are."""
    shutil.copytree(trained, cli.runs / "league")
    return Path("runs/league")


def no_league(cli: Command) -> Path:
    return cli.train("impala", "catch", *SMALL_NET, "--total-frames", "2000")


def rows(out: str, width: int) -> dict[str, list[str]]:
    """Lines of a table by their first cell, which is ``width`` wide."""
    return {line[:width].strip(): line[width:].split() for line in out.splitlines()}


def test_league_alone_lists_the_games(cli: Command) -> None:
    out = cli.good("league")
    assert out.startswith("usage: machina league GAME")
    assert out == cli.good("league", "--help")
    for name, game in GAMES.items():
        assert f"  {name} " in out
        assert game.summary in out


def test_help_lists_the_options_of_training(cli: Command) -> None:
    out = cli.good("league", "connect_four", "--help")
    assert "machina league connect_four" in out
    for option in ("--snapshot-updates", "--pool-share", "--learning-rate", "--max-steps", "--until-return"):
        assert option in out


def test_a_league_takes_its_configuration_and_snapshots(cli: Command, trained: Path) -> None:
    saved = yaml.safe_load((trained / "config.yaml").read_text())
    assert (saved["algorithm"], saved["environment"]) == ("ppo", "connect_four")
    assert sorted(file.name[:7] for file in (trained / "league" / "snapshots").iterdir()) == list(SNAPSHOTS)
    shipped = yaml.safe_load(shipped_configurations()["league_connect_four"].read_text())
    short = (*TINY[:-4], "--unroll-length", "4", "--batch-size", "8", "--total-frames", "64", "--rating-games", "2")
    cli.good("league", "connect_four", *short, "--envs-per-task", "8", "--runs-dir", cli.runs, "--name", "shipped")
    saved = yaml.safe_load((cli.runs / "shipped" / "config.yaml").read_text())
    assert saved["league"]["snapshot_updates"] == shipped["league"]["snapshot_updates"]
    assert saved["algo"]["learning_rate"] == shipped["algo"]["learning_rate"]
    own = cli.folder / "own.yaml"
    own.write_text("environment: connect_four\nalgo: {gamma: 0.5}\n")
    cli.good("league", "--config", own, *short, "--envs-per-task", "8", "--runs-dir", cli.runs, "--name", "own")
    saved = yaml.safe_load((cli.runs / "own" / "config.yaml").read_text())
    assert saved["league"]["snapshot_updates"] == league_command.SNAPSHOT_UPDATES, "a league without snapshots is none"
    assert saved["algo"]["gamma"] == 0.5


def test_status_shows_ratings_and_pool(cli: Command, run: Path) -> None:
    out = cli.good("status", run)
    assert "the schedule is complete" in out
    table = json.loads((run / "league" / "league.json").read_text())
    games = table["games"]
    assert games["self"] > 0
    assert f"league: 3 snapshots; training games: {games['self']:,} of the policy against itself, " in out
    ratings, pool = out.split("\nplayer ")[1].split("\nsnapshot ")
    shown = [line.split()[0] for line in ratings.splitlines()[1:] if line.strip()]
    assert shown == [row["name"] for row in table["ratings"]]
    for line, row in zip(pool.splitlines()[1:], table["snapshots"], strict=True):
        name, env_steps, quality, probability, *met = line.replace("/", " ").split()
        assert (name, env_steps) == (row["name"], f"{row['env_steps']:,}")
        assert (quality, probability) == (f"{row['quality']:.3f}", f"{row['probability']:.1%}")
        assert met == [str(row[kind]) for kind in ("wins", "losses", "draws")]


def test_status_of_another_run_is_as_it_was(cli: Command) -> None:
    out = cli.good("status", no_league(cli))
    assert "league" not in out
    assert out.rstrip().splitlines()[-1].startswith("0 ")


def test_match_prints_and_keeps_the_result(cli: Command, run: Path) -> None:
    out = cli.good("match", f"{run}@{SNAPSHOTS[0]}", "one_ply", "--games", "20", "--seed", "5")
    lines = out.splitlines()
    assert lines[0].strip() == "connect_four, 20 games, seed 5"
    assert lines[-1] == f"{run}/report/match-league-{SNAPSHOTS[0]}-vs-one_ply-20games-seed5.json"
    result = json.loads(Path(lines[-1]).read_text())
    assert len(result["games"]) == 20
    width = lines[1].index("games")
    table = rows(out, width)
    assert table["one_ply"][0] == "20"
    won = sum(scores[players.index("one_ply")] == 1 for players, scores, *_ in map(list_of, result["games"]))
    assert table["one_ply"][1] == str(won)
    assert won > 10
    assert "not a multiple" not in out
    assert "3 games are not a multiple of 2 teams" in cli.good("match", run, "random", "--games", "3")


def list_of(game: list[object]) -> tuple[list[str], list[float], object, object]:
    players, scores, *rest = game
    assert isinstance(players, list)
    assert isinstance(scores, list)
    return players, scores, *rest  # type: ignore[return-value]


def test_match_of_scripted_players(cli: Command) -> None:
    out = cli.good("match", "random", "one_ply", "--game", "connect_four", "--games", "10")
    assert "as player_1" in out
    assert not list(cli.folder.iterdir()), "there is no run to keep it in"


def test_watch_a_game(cli: Command, run: Path) -> None:
    out = cli.good("watch", run)
    found = re.fullmatch(r"(\S+\.mp4): connect_four, (\d+) pictures, player_0 (-1|0|1), player_1 (-1|0|1)", out.strip())
    assert found is not None, out
    assert imageio_ffmpeg.count_frames_and_secs(found[1])[0] == int(found[2])
    out = cli.good("watch", run, "--against", f"{run}@random", "--snapshot", SNAPSHOTS[1], "--max-steps", "3")
    assert f"{run}@{SNAPSHOTS[1]} as player_0 0, random as player_1 0, cut after 3 env steps" in out


def test_report_of_a_league(cli: Command, run: Path) -> None:
    out = cli.good("report", run, "--games", "2", "--snapshots", "2")
    names = ("ratings.png", "cross_table.json", "cross_table.png", "met.png", "learning_curves.png", "report.md")
    film = run / "videos" / "connect_four-000000001536-vs-one_ply-seed0.mp4"
    assert sorted(out.split()) == sorted([*(f"{run}/report/{name}" for name in names), str(film)])
    page = (run / "report" / "report.md").read_text()
    assert "# league: league of connect_four" in page
    for link in re.findall(r"!\[[^]]*\]\(([^)]*)\)", page):
        assert matplotlib.image.imread(run / "report" / link).ndim == 3
    assert len(re.findall(r"!\[", page)) == 4
    assert imageio_ffmpeg.count_frames_and_secs(str(film))[0] > 7
    assert "2 games of each pair, both seats equally often, played for this report." in page
    assert re.search(r"over 6 pairs: mean difference 0\.\d{3} .*worst \d\.\d{3}: ", page)
    kept = (run / "report" / "cross_table.json").read_bytes()
    cli.good("report", run, "--games", "2", "--snapshots", "2")
    assert (run / "report" / "cross_table.json").read_bytes() == kept
    assert (run / "report" / "report.md").read_text() == page
    cli.good("report", run, "--games", "4", "--snapshots", "3")
    assert "4 games of each pair" in (run / "report" / "report.md").read_text()


def test_report_of_a_league_without_snapshots_or_pictures(cli: Command, run: Path) -> None:
    file = run / "league" / "league.json"
    table = json.loads(file.read_text())
    file.write_text(json.dumps({**table, "snapshots": [], "ratings": []}))
    shutil.rmtree(run / "checkpoints")
    out = cli.good("report", run)
    assert "no ratings: the league has no snapshot yet" in out
    assert "no film: run 'runs/league' has no usable checkpoint" in out
    assert "no usable checkpoint" in (run / "report" / "report.md").read_text()


def test_report_of_any_other_run(cli: Command) -> None:
    run = no_league(cli)
    out = cli.good("report", run)
    assert "no scores: no evaluation yet; make one: machina eval" in out
    assert out.split()[-2:] == [str(run / "report" / name) for name in ("learning_curves.png", "report.md")]
    cli.good("eval", run, "--episodes", "4")
    assert "no scores" not in cli.good("report", run)
    page = (run / "report" / "report.md").read_text()
    assert "# run: impala on catch" in page
    assert "![learning curves](learning_curves.png)" in page
    assert "| catch | 4 |" in page


def test_report_of_a_run_that_has_only_begun(cli: Command) -> None:
    run = cli.train("impala", "catch", *SMALL_NET, "--total-frames", "1", "--envs-per-task", "4")
    out = cli.good("report", run)
    assert "no learning curves: " in out
    assert (run / "report" / "report.md").is_file()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("league", "conect_four"), "unknown environment 'conect_four'; did you mean 'connect_four'?"),
        (("league", "--seed", "3"), "name a game, as in `machina league connect_four`"),
        (("league", "connect_four", "more"), "unknown option 'more'; see machina league connect_four --help"),
        (("league", "connect_four", "--snapshot-update", "5"), "did you mean '--snapshot-updates'"),
        (("league", "connect_four", "--pool-share", "2"), "pool_share=2.0: must be 0 to 1"),
        (("league", "connect_four", "--config", "leage"), "configuration 'leage' is neither a file nor shipped"),
        (("league", "CartPole-v1", *TINY), "a league needs a game of two"),
        (
            ("league", "pettingzoo.classic.tictactoe_v3", *TINY),
            "a league needs a game of two, such as --teams player_1,player_2",
        ),
        (("league", "connect_four", "--eval-every", "100"), "eval_every=100: against itself a policy's returns say"),
        (
            ("train", "ppo", "connect_four", "--pool-share", "0.5", "--rating-games", "8"),
            "pool_share=0.5, rating_games=8: no league without snapshot_updates; use `machina league connect_four`",
        ),
        (("match",), "match needs a player per team: machina match runs/NAME one_ply"),
        (("match", "RUN@u00002", "random"), "has no snapshot 'u00002' among its 3; did you mean 'u000002'"),
        (("match", "RUN", "RUN"), "names must differ"),
        (("match", "RUN", "random", "--games", "0"), "games=0: must be 1 to 1000000"),
        (("match", "RUN", "random", "one_ply"), "'connect_four' has 2 teams, name one player each"),
        (("match", "RUN", "random", "--game", "simple_tag"), "a match is of one game"),
        (("match", "random", "one_ply"), "no run among them says which game; give --game"),
        (("watch", "RUN", "--snapshot", "u00006"), "has no snapshot 'u00006' among its 3; did you mean 'u000006'"),
        (("watch", "RUN", "--against", "on_ply"), "'on_ply' is neither a run nor a scripted player; did you mean"),
        (("watch", "RUN", "--game", "player"), "all agents of connect_four are in its film; leave it out"),
        (("report", "nowhere"), "run directory 'nowhere' does not exist"),
        (("report", "RUN", "--games", "3"), "games=3: input should be a multiple of 2"),
        (("report", "RUN", "--snapshots", "0"), "snapshots=0: must be 1 to 1000"),
    ],
)
def test_refused(arguments: tuple[str, ...], expected: str, cli: Command, run: Path) -> None:
    before = sorted(cli.runs.rglob("*"))
    assert expected in cli.refused(*(argument.replace("RUN", str(run)) for argument in arguments))
    assert sorted(cli.runs.rglob("*")) == before, "nothing is left behind"


def test_refusals_that_name_two_runs_or_none_of_a_league(cli: Command, run: Path) -> None:
    other = no_league(cli)
    assert f"run '{run}' plays connect_four, run '{other}' plays catch" in cli.refused("match", run, other)
    assert f"run '{other}' is not a league and has no snapshot 'u000002'" in cli.refused(
        "match", f"{other}@u000002", "random"
    )
    assert "against='random': catch has no two teams" in cli.refused("watch", other, "--against", "random")
    (run / "league" / "league.json").write_text("{")
    for command in ("status", "report"):
        assert "league.json' was edited or truncated" in cli.refused(command, run)
