"""Runs that learn from a replay: they repeat, continue after any end, and give the same in every place."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from runs import SMALL, assert_same_content, checkpoints, content, last_checkpoint, signal_at

import machina
from machina.algorithms.r2d2.learning import R2D2Learner
from machina.algorithms.replaying.learning import ReplayingLearner
from machina.checkpoint import load_checkpoint
from machina.errors import UserError
from machina.interfaces import Learner
from machina.metrics import read_metrics

REPLAY: dict[str, Any] = {
    **SMALL, "envs_per_task": 4, "replay_capacity": 400, "learning_starts": 100, "total_frames": 700,
    "batch_size": 8, "target_update_period": 7,
}  # fmt: skip
CASES: dict[str, tuple[str, type[Learner], dict[str, Any]]] = {
    "dqn": ("dqn", ReplayingLearner, {"replay_ratio": 2.0}),
    "rainbow": ("rainbow", ReplayingLearner, {"replay_ratio": 2.0, "atoms": 5}),
    "apex, 2 shards, best episodes": (
        "apex",
        ReplayingLearner,
        {"replay_ratio": 2.0, "replay_shards": 2, "episode_memory": 3, "actors": 2},
    ),
    "dqn, by rank": ("dqn", ReplayingLearner, {"replay_ratio": 2.0, "priority": "rank"}),
    "dqn, greedy, lock-step": (
        "dqn",
        ReplayingLearner,
        {"replay_ratio": 2.0, "priority": "greedy", "lock_step": True},
    ),
    "r2d2": (
        "r2d2",
        R2D2Learner,
        {"burn_in_length": 3, "sequence_length": 7, "lstm_size": 4, "replay_ratio": 4.0, "episode_memory": 2},
    ),
}


def train(case: str, runs_dir: Path, name: str, **options: Any) -> Path:
    algorithm, _, special = CASES[case]
    return machina.train(algorithm, "catch", name=name, runs_dir=runs_dir, **(REPLAY | special | options)).path


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stop_at", [1, 30])
def test_a_stopped_run_continues_bit_for_bit(
    case: str, stop_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(case, tmp_path, "whole")
    with monkeypatch.context() as patch:
        signal_at(stop_at, signal.SIGTERM, patch, CASES[case][1])
        halved = train(case, tmp_path, "halved")
    assert load_checkpoint(last_checkpoint(halved)).values["progress"]["updates"] == stop_at
    assert machina.resume(halved).reason == "the schedule is complete"
    assert_same_content(last_checkpoint(whole), last_checkpoint(halved))


@pytest.mark.parametrize("case", CASES)
def test_the_replay_ratio_is_held_and_nothing_is_lost(case: str, tmp_path: Path) -> None:
    options = {"total_frames": 3000, "log_seconds": 1e-9}
    path = train(case, tmp_path, "run", **options)
    last = [line for line in read_metrics(path) if "replay/ratio" in line][-1]
    wanted = CASES[case][2]["replay_ratio"]
    assert last["replay/ratio"] == pytest.approx(wanted, rel=0.05)
    collected, *others = (last[f"replay/{name}"] for name in ("collected", "stored", "removed", "lost"))
    assert collected == sum(each or 0 for each in others)
    assert (last["replay/removed"] or 0) > 0


@pytest.mark.parametrize("case", ["dqn", "apex, 2 shards, best episodes", "r2d2"])
def test_lock_step_gives_the_same_in_threads_and_inline(case: str, tmp_path: Path) -> None:
    options = {"lock_step": True, "seed": 3}
    inline, local = (train(case, tmp_path, place, place=place, **options) for place in ("inline", "local"))
    one, other = (content(last_checkpoint(path))[0] for path in (inline, local))
    model = [name for name in one if name.startswith(("model/", "target/"))]
    assert len(model) > 4
    for name in model:
        assert one[name].equal(other[name]), name


def test_a_run_in_lock_step_continues_where_updates_were_owed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its actors start with what is there, though nothing is published before the last of these updates."""
    with monkeypatch.context() as patch:
        signal_at(2, signal.SIGTERM, patch, ReplayingLearner)
        path = train("dqn", tmp_path, "run", place="local", lock_step=True)
    assert machina.resume(path).reason == "the schedule is complete"


def files(run: Path) -> dict[str, float]:
    """When each file of the replay was written."""
    return {file.name: file.stat().st_mtime for file in (run / "replay").iterdir()}


def test_what_did_not_change_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("machina.buffers.replay_store.CHUNK_BYTES", 1)
    options = {"checkpoint_minutes": 1e-9, "keep_checkpoints": 2, "replay_capacity": 4000, "total_frames": 1500}
    path = train("dqn", tmp_path, "run", **options)
    listed = [
        {piece["file"] for piece in json.loads((each / "state.json").read_bytes())["replay"]}
        for each in checkpoints(path)
    ]
    assert len(listed) == 2
    shared, own = listed[0] & listed[1], listed[1] - listed[0]
    assert len(shared) > 10
    assert len(own) <= 5  # counters, the rest, and what was written to
    assert set(files(path)) == set.union(*listed)


def test_without_its_replay_a_run_collects_anew_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = train("dqn", tmp_path, "run", save_replay="never", total_frames=400)
    assert not (path / "replay").exists()
    run = machina.resume(path, total_frames=800)
    assert run.reason == "the schedule is complete"
    assert "the replay was not saved (save_replay): it starts empty" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_file_of_the_replay_is_refused_by_name(damage: str, tmp_path: Path) -> None:
    path = train("dqn", tmp_path, "run", total_frames=400)
    state = json.loads((last_checkpoint(path) / "state.json").read_bytes())
    file = path / "replay" / state["replay"][0]["file"]
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    expected = "is missing" if damage == "missing" else "its checksum differs"
    with pytest.raises(UserError, match=rf"{file.name}' .*{expected}; remove '{last_checkpoint(path)}' to"):
        machina.resume(path, total_frames=800)


def test_another_number_of_shards_does_not_fit(tmp_path: Path) -> None:
    path = train("dqn", tmp_path, "run", total_frames=400)
    config = path / "config.yaml"
    config.write_text(config.read_text().replace("replay_shards: 1", "replay_shards: 2"))
    with pytest.raises(UserError, match=r"replay has 1 shards, this run 2; continue with as many"):
        machina.resume(path, total_frames=800)
