"""Films of games for several agents."""

from __future__ import annotations

from pathlib import Path

import imageio_ffmpeg
import pytest
from leagues import SNAPSHOTS, small_league

import machina
from machina.config import LeagueConfig
from machina.envs.games.table import GAMES
from machina.jobs.film import film


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_league(tmp_path_factory.mktemp("runs"), "league")


def test_the_policy_plays_all_seats(league: Path) -> None:
    made = film(league, seed=1)
    assert made.file == league / "videos" / "connect_four-000000002560-seed1.mp4"
    assert imageio_ffmpeg.count_frames_and_secs(str(made.file))[0] == made.frames
    assert made.frames >= 1 + 7 + 2, "the board is empty at first, a game takes 7 moves, the end is held"
    assert [label for label, _ in made.scores] == ["player_0", "player_1"]
    assert sorted(score for _, score in made.scores) in ([-1, 1], [0, 0])
    assert (made.task, made.remark) == ("connect_four", "")


def test_the_first_team_is_the_run_s(league: Path) -> None:
    """One move of look-ahead beats a policy that has hardly learned; were the sides mixed up it would not always."""
    scores = []
    for seed in range(6):
        made = film(league, seed=seed, against="one_ply")
        assert [label for label, _ in made.scores] == [f"{league} at 2560 as player_0", "one_ply as player_1"]
        assert made.file.name == f"connect_four-000000002560-vs-one_ply-seed{seed}.mp4"
        assert made.episode_return == made.scores[0][1]
        scores.append(made.episode_return)
    assert sum(scores) <= -4


def test_films_of_snapshots(league: Path) -> None:
    made = film(league, snapshot=SNAPSHOTS[0], against=f"{league}@{SNAPSHOTS[-1]}", max_steps=5)
    assert made.file.name == f"connect_four-000000000512-vs-league-{SNAPSHOTS[-1]}-seed0.mp4"
    assert (made.frames, made.remark) == (5, ", cut after 5 env steps")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"snapshot": "u000003"}, "has no snapshot 'u000003' among its 5; did you mean 'u0000"),
        ({"snapshot": "random"}, "snapshot='random' is a scripted player; film it with --against"),
        ({"snapshot": "u000002", "best": True}, "snapshot='u000002' and best name two policies"),
        ({"game": "player"}, "all agents of connect_four are in its film"),
        ({"against": "nearest"}, "connect_four has no scripted player 'nearest'"),
    ],
)
def test_refusals(options: dict[str, str | bool], expected: str, league: Path) -> None:
    with pytest.raises(machina.UserError) as caught:
        film(league, **options)  # type: ignore[arg-type]
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("game", "heuristic"), [("simple_tag", "chase"), ("battle", "nearest"), ("pong_duel", "follow")]
)
def test_every_shipped_game_has_films(game: str, heuristic: str, tmp_path: Path) -> None:
    slots = 2 * len(GAMES[game].seats)
    run = small_league(
        tmp_path,
        "run",
        game,
        envs_per_task=2,
        batch_size=slots,
        unroll_length=2,
        total_frames=2 * slots,
        snapshot_updates=None,
        rating_games=LeagueConfig().rating_games,
    )
    made = film(run, against=heuristic, max_steps=4)
    assert made.file.name == f"{game}-{2 * slots:012d}-vs-{heuristic}-seed0.mp4"
    assert imageio_ffmpeg.count_frames_and_secs(str(made.file))[0] == 4
    assert [label.split(" as ")[0] for label, _ in made.scores] == [f"{run} at {2 * slots}", heuristic]
