"""Leagues from the first game to the last checkpoint: repeatable, exact over a stop and a kill, refused in one line."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from leagues import SMALL_LEAGUE, small_league
from processes import start, wait_until
from runs import assert_same_content, checkpoints, content, last_checkpoint, signal_at, untimed

import machina
from machina.algorithms.ppo.learning import PPOLearner
from machina.checkpoint import RunDirectory, load_checkpoint
from machina.launch.ending import Outcome
from machina.launch.hooks import SelfPlayHook
from machina.launch.self_play import League, snapshots_folder
from machina.launch.training import Trainer
from machina.league.pool import PoolView, Snapshot
from machina.league.snapshots import sha256
from machina.metrics import read_metrics
from machina.types import PRESENT_SELF, names_of


def league_of(trainer: Trainer) -> League:
    assert isinstance(trainer._hook, SelfPlayHook)
    return trainer._hook._league


UPDATES = 12
SNAPSHOTS = 6
"""One every two updates."""
OPTIONS: dict[str, Any] = {
    "total_frames": UPDATES * SMALL_LEAGUE["batch_size"] * SMALL_LEAGUE["unroll_length"],
    "pool_share": 0.6,
    "quality_step": 0.3,
    "opponents_in_memory": 2,
}
# Slots are not a multiple of the batch: unrolls wait in the queue when the run ends.
ODD: dict[str, Any] = {"lstm_size": 8, "envs_per_task": 7, "actors": 2, "popart": True}


def train(folder: Path, name: str, **options: Any) -> Path:
    return small_league(folder, name, **{**OPTIONS, **options})


def table(run: Path) -> dict[str, Any]:
    """What `league.json` says."""
    rows: dict[str, Any] = json.loads((run / "league" / "league.json").read_text(encoding="utf-8"))
    return rows


def snapshot_files(run: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((run / "league" / "snapshots").iterdir())}


def assert_same_league(one: Path, other: Path) -> None:
    """Pool, qualities, hashes, ratings, parameters, schedules, games under way: equal bit for bit."""
    assert_same_content(last_checkpoint(one), last_checkpoint(other))
    assert (one / "league" / "league.json").read_bytes() == (other / "league" / "league.json").read_bytes()
    assert snapshot_files(one) == snapshot_files(other)


def test_same_seed_same_league(tmp_path: Path) -> None:
    runs = [train(tmp_path, name, log_seconds=1e-9, **ODD) for name in ("one", "two")]
    assert_same_league(*runs)
    lines = [untimed(read_metrics(run)) for run in runs]
    assert lines[0] == lines[1]

    shown = table(runs[0])
    names = [row["name"] for row in shown["snapshots"]]
    assert names == [f"u{updates:06d}" for updates in range(2, UPDATES + 1, 2)]
    assert len({row["sha256"] for row in shown["snapshots"]}) == SNAPSHOTS
    assert min(shown["games"].values()) > 10
    met = [sum(row[kind] for kind in ("wins", "losses", "draws")) for row in shown["snapshots"]]
    assert sum(met) == shown["games"]["pool"]
    assert sum(count > 0 for count in met) >= 3
    assert len({row["quality"] for row in shown["snapshots"]}) > 2
    assert {row["name"] for row in shown["ratings"]} >= {"random", "one_ply", *names}
    games = {row["name"]: row["games"] for row in shown["ratings"]}
    # One on each side against two scripted players, the one before and two others; later ones met it as well.
    assert games[names[-1]] == 10
    opponents = [2 + min(3, earlier) for earlier in range(SNAPSHOTS)]
    assert sum(games.values()) == 2 * sum(2 * each * (5 // each) for each in opponents), "at most 5 on each side"
    last = read_metrics(runs[0])[-1]
    assert last["league/games_pool"] == shown["games"]["pool"]
    assert last["league/snapshots"] == SNAPSHOTS

    other = train(tmp_path, "other", seed=2, **ODD)
    assert table(other)["snapshots"][0]["sha256"] != shown["snapshots"][0]["sha256"]


def test_a_lock_step_league_is_the_same_in_every_place_of_this_machine(tmp_path: Path) -> None:
    """Wins of a round count before the next one draws its opponents, whoever is faster."""
    options = {"lock_step": True, "envs_per_task": 8, "actors": 1, "quality_step": 2.0}
    runs = [
        train(tmp_path, f"{place}{i}", place=place, **options) for i, place in enumerate(["inline"] + 3 * ["local"])
    ]
    assert table(runs[0])["games"]["pool"] > 10
    for run in runs[1:]:
        assert table(run)["snapshots"] == table(runs[0])["snapshots"]
        assert snapshot_files(run) == snapshot_files(runs[0])


def test_the_table_and_the_metrics_follow_the_games(tmp_path: Path) -> None:
    """Not only when a rating is new; and what the metrics call the win rate is that of the latest games."""
    run = train(tmp_path, "run", snapshot_updates=5, log_seconds=1e-9, quality_step=0.0)
    shown = [
        (line["league/games_pool"] or 0.0, line["league/win_rate_pool"] or 0.0)
        for line in read_metrics(run)
        if "league/win_rate_pool" in line
    ]
    games = [0.0, *(count for count, _ in shown)]
    assert games == sorted(set(games)), "no line without new games shows a rate"
    won = sum(rate * (count - before) for (count, rate), before in zip(shown, games, strict=False))
    rows = table(run)["snapshots"]
    assert won == pytest.approx(sum(row["wins"] + row["draws"] / 2 for row in rows))


@pytest.mark.parametrize(("options", "stop_at"), [({}, 6), (ODD, 7)])
def test_a_stopped_league_continues_bit_for_bit(
    options: dict[str, Any], stop_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the games under way, their opponents, and the opponents' core states; after 3 of 6 snapshots."""
    whole = train(tmp_path, "whole", **options)
    with monkeypatch.context() as patch:
        signal_at(stop_at, signal.SIGTERM, patch, PPOLearner)
        halved = train(tmp_path, "halved", **options)
    half = load_checkpoint(last_checkpoint(halved))
    assert half.values["progress"]["updates"] == stop_at
    assert len(half.values["league"]["pool"]["snapshots"]) == 3
    seated = [tensor for name, tensor in half.tensors["plane"].items() if name.endswith("seating/opponents")]
    assert any(bytes(tensor.numpy()).strip(b"\n") for tensor in seated), "a game against a snapshot is under way"
    run = machina.resume(halved)
    assert (run.updates, run.reason) == (UPDATES, "the schedule is complete")
    assert_same_league(whole, halved)
    assert content(last_checkpoint(halved))[1]["progress"]["unrolls_lost"] == 0


def flags(options: dict[str, Any]) -> list[str]:
    """Options of `machina.train` as the command line takes them."""
    words: list[str] = []
    for name, value in options.items():
        words.append(f"--{name.replace('_', '-')}")
        words += map(str, value) if isinstance(value, tuple) else [str(value)]
    return words


def test_a_killed_league_continues_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL with `--place local`, while games are played and rated while the learner works."""
    schedules = {"clip_final": 0.0, "entropy_cost_final": 0.0, "team_spirit_final": 1.0}
    options = {**SMALL_LEAGUE, **OPTIONS, **schedules, "place": "local", "total_frames": 1_000_000}
    where = {
        "checkpoint_minutes": 1e-9,
        "log_seconds": 1e-9,
        "keep_checkpoints": 3,
        "runs_dir": tmp_path,
        "name": "killed",
    }
    path = tmp_path / "killed"
    arguments = ("league", "connect_four", "--config", "defaults", *flags({**options, **where}))
    process = start(*arguments, cwd=tmp_path)

    def is_under_way() -> bool:
        file = path / "league" / "league.json"
        rated = file.exists() and sum(row["name"].startswith("u") for row in table(path)["ratings"])
        return rated >= 3 and len(checkpoints(path)) > 0

    wait_until(is_under_way, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    saved = load_checkpoint(last_checkpoint(path))
    updates = saved.values["progress"]["updates"]
    before = snapshot_files(path)
    seen: dict[str, Any] = {}
    go_on = Trainer.run

    def look_and_go_on(self: Trainer) -> Any:
        league = league_of(self)
        state = self.learners.state()
        seen.update(league=league.state(), learner=state, progress=self.progress._asdict())
        seen["view"] = league.view()
        return go_on(self)

    monkeypatch.setattr(Trainer, "run", look_and_go_on)
    signal_at(updates + 9, signal.SIGTERM, monkeypatch, PPOLearner)
    run = machina.resume(path)
    assert run.updates == updates + 9

    # What it started from is what was saved.
    league = saved.values["league"]
    assert json.loads(json.dumps(seen["league"])) == league
    assert seen["learner"].values == saved.values["learner"], "of which the schedules are functions"
    for part, tensors in seen["learner"].tensors.items():
        assert tensors.keys() == saved.tensors[part].keys()
        assert all(torch.equal(tensor, saved.tensors[part][name]) for name, tensor in tensors.items())
    lost = saved.values["progress"]["unrolls_lost"] + saved.values["unrolls_at_hand"]
    assert seen["progress"] == {**saved.values["progress"], "unrolls_lost": lost}
    pool = league["pool"]["snapshots"]
    assert len(pool) >= 2
    assert [row["name"] for row in pool] == list(seen["view"].names)
    loaded = [load() for load in seen["view"].parameters]
    assert [row["sha256"] for row in pool] == [sha256(flat) for flat in loaded]

    # And it continued with it: nothing of the pool was changed, more came.
    after = table(path)
    kept = after["snapshots"][: len(pool)]
    for row, former in zip(kept, pool, strict=True):
        assert {key: row[key] for key in Snapshot._fields} == {key: former[key] for key in Snapshot._fields}
        assert row["wins"] >= former["wins"]
        assert row["quality"] <= former["quality"]
    assert len(after["snapshots"]) == (updates + 9) // 2
    files = snapshot_files(path)
    assert all(files[name] == bytes_before for name, bytes_before in before.items())
    rated = {row["name"] for row in after["ratings"]}
    assert rated >= {*league["rated"], *league["ratings"]["games"]}
    assert sum(after["games"].values()) >= sum(league["games"].values())
    assert PRESENT_SELF not in rated, "the present self changes: it has no rating"
    lines = {line["env_steps"]: line for line in read_metrics(path) if "learner/learning_rate" in line}
    steps = SMALL_LEAGUE["batch_size"] * SMALL_LEAGUE["unroll_length"]
    assert list(lines) == [steps * update for update in range(1, run.updates + 1)]
    for update, line in enumerate(lines.values()):
        share = update * steps / options["total_frames"]
        assert line["learner/learning_rate"] == pytest.approx(SMALL_LEAGUE["learning_rate"] * (1 - share))
        assert line["learner/team_spirit"] == pytest.approx(share)


def one_line(error: pytest.ExceptionInfo[machina.UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def damaged(content: bytes) -> Iterator[bytes | None]:
    """Bytes with another bit; at last no file at all."""
    for position in (3, 20, len(content) // 2, len(content) - 1):
        yield content[:position] + bytes([content[position] ^ 0x20]) + content[position + 1 :]
    yield None


def test_a_league_continues_without_a_damaged_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are drawn as if it had never been there; its results still rate those that it met."""
    signal_at(6, signal.SIGTERM, monkeypatch, PPOLearner)
    path = train(tmp_path, "run", rating_games=10)
    saved = content(last_checkpoint(path))[1]["league"]
    rows = saved["pool"]["snapshots"]
    assert len(rows) == 3
    store = snapshots_folder(RunDirectory.open(path))
    file = store.file(Snapshot(*(rows[1][field] for field in Snapshot._fields)))
    seated = load_checkpoint(last_checkpoint(path)).tensors["plane"]["slot0/seating/opponents"].numpy()
    assert rows[1]["name"] in names_of(seated), "it plays a game that is under way"
    views: list[PoolView] = []

    def look(self: Trainer) -> Outcome:
        views.append(league_of(self).view())
        return Outcome("looked at", 0, 0)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", look)
        for content_now in damaged(file.read_bytes()):
            file.unlink() if content_now is None else file.write_bytes(content_now)
            capsys.readouterr()
            machina.resume(path)
            told = f"the league continues without {rows[1]['name']}: snapshot '{file}' "
            lines = [line for line in capsys.readouterr().out.splitlines() if "continues without" in line]
            assert len(lines) == 1
            assert lines[0].startswith(told)
            assert told in (path / "faults.log").read_text(encoding="utf-8").splitlines()[-1]
            weights = [math.exp(row["quality"]) for row in (rows[0], rows[2])]
            assert views[-1].names == (rows[0]["name"], rows[2]["name"])
            assert views[-1].probabilities == pytest.approx([weight / sum(weights) for weight in weights])
    assert machina.resume(path).updates == UPDATES
    after = content(last_checkpoint(path))[1]["league"]
    kept = {row["name"]: row for row in after["pool"]["snapshots"]}
    assert list(kept) == [name for name in (f"u{2 * each:06d}" for each in range(1, 7)) if name != rows[1]["name"]]
    assert kept[rows[0]["name"]]["quality"] <= rows[0]["quality"]
    assert [name for name in saved["rated"] if name in kept] == after["rated"][:2]
    assert after["ratings"]["games"][rows[1]["name"]] == saved["ratings"]["games"][rows[1]["name"]], "none came more"
    shown = table(path)
    assert {row["name"] for row in shown["ratings"]} == {"random", "one_ply", *kept}
    assert machina.match([f"{path}@{rows[2]['name']}", "random"], games=2).players
    capsys.readouterr()
    machina.resume(path)
    assert "continues without" not in capsys.readouterr().out, "said once, then it is no part of the league"


@pytest.mark.parametrize(("environment", "teams"), [("catch", 0), ("mpe2.simple_spread_v3", 1)])
def test_a_game_without_two_teams_is_refused(environment: str, teams: int, tmp_path: Path) -> None:
    with pytest.raises(machina.UserError) as error:
        machina.train("ppo", environment, "defaults", runs_dir=tmp_path, name="run", snapshot_updates=5)
    message = one_line(error)
    assert message.startswith(f"environment={environment!r} has {teams} teams, a league needs a game of two")
    assert not (tmp_path / "run").exists()
