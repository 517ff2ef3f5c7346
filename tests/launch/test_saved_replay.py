"""A replay's files beside a run's checkpoints: what a kill, a full disk and other options leave of them."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from runs import assert_same_content, checkpoints, last_checkpoint
from test_replayed_runs import CASES, train

import machina
from machina.algorithms.replaying.config import SAVED_BYTES, ReplayingConfig
from machina.checkpoint import CheckpointError, pieces, store
from machina.checkpoint.files import write_synced
from machina.errors import UserError
from machina.metrics import read_metrics


def written(run: Path) -> set[str]:
    return {file.name for file in (run / "replay").iterdir()}


def listed(run: Path) -> set[str]:
    """What the run's checkpoints list; one that is not in its place is hidden."""
    states = [json.loads((path / "state.json").read_bytes()) for path in store.checkpoint_paths(run / "checkpoints")]
    return {piece["file"] for state in states for piece in state["replay"]}


def num_bytes(run: Path) -> int:
    """Of checkpoints and replay."""
    files = [file for folder in ("checkpoints", "replay") for file in (run / folder).rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_continues_bit_for_bit_from_any_checkpoint(case: str, tmp_path: Path) -> None:
    whole = train(case, tmp_path, "whole")
    killed = train(case, tmp_path, "killed", checkpoint_minutes=1e-9, keep_checkpoints=99)
    saved = checkpoints(killed)
    for later in saved[len(saved) // 2 :]:
        shutil.rmtree(later)
    machina.resume(killed)
    assert_same_content(last_checkpoint(whole), last_checkpoint(killed))
    assert written(killed) == listed(killed)


def test_a_kill_before_the_checkpoint_is_in_its_place_leaves_the_one_before(tmp_path: Path) -> None:
    path = train("dqn", tmp_path, "run", total_frames=400)
    before, files = last_checkpoint(path), written(path)
    child = os.fork()
    if child == 0:
        store._put_in_place = lambda *_: os._exit(9)
        try:
            machina.resume(path, total_frames=800)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert last_checkpoint(path) == before
    assert written(path) > files, "they were written, and are of no checkpoint"
    assert machina.resume(path, total_frames=800).env_steps == 800
    assert written(path) == listed(path)


class SmallDisk:
    """Refuses what would make a run's checkpoints larger than ``size`` bytes, as a full disk does."""

    def __init__(self, run: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run = run
        self.size = size
        self.refused: list[str] = []
        for module in (store, pieces):
            monkeypatch.setattr(module, "write_synced", self.write)

    def write(self, path: Path, content: bytes) -> None:
        if num_bytes(self.run) + len(content) > self.size:
            path.write_bytes(content[: max(0, self.size - num_bytes(self.run))])
            self.refused.append(path.name)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_synced(path, content)


@pytest.mark.parametrize("room", [0, 60_000], ids=["not for the replay", "for the replay alone"])
def test_on_a_full_disk_checkpoints_are_missed_and_leave_nothing(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = train("dqn", tmp_path, "run", total_frames=400, checkpoint_minutes=1e-9, keep_checkpoints=1)
    before, files = last_checkpoint(path), written(path)
    sizes = [(path / "replay" / name).stat().st_size for name in files]
    disk = SmallDisk(path, num_bytes(path) + min(room, sum(sizes) + 1000), monkeypatch)
    capsys.readouterr()
    with pytest.raises(CheckpointError, match=r"could not be written.*the last good checkpoint is untouched"):
        machina.resume(path, total_frames=800)
    missed = [line for line in capsys.readouterr().out.splitlines() if "could not be written" in line]
    assert len(missed) > 5
    assert all(line.endswith("; the run continues") for line in missed)
    assert ("rest" in disk.refused[0]) == (room == 0)
    assert last_checkpoint(path) == before
    assert written(path) == files
    monkeypatch.undo()
    assert machina.resume(path, total_frames=800).env_steps == 800


def test_old_checkpoints_make_room_for_the_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"total_frames": 400, "checkpoint_minutes": 1e-9, "keep_checkpoints": 4}
    path = train("dqn", tmp_path, "run", **options)
    chunk = max(file.stat().st_size for file in (path / "replay").iterdir())  # one that all four share
    disk = SmallDisk(path, num_bytes(path) + chunk, monkeypatch)
    assert machina.resume(path, total_frames=480).env_steps == 480
    assert disk.refused
    assert "made room for that of env step" in capsys.readouterr().out
    assert int(last_checkpoint(path).name) == 480
    assert written(path) == listed(path)


@pytest.mark.parametrize(
    ("case", "was", "becomes", "refusal"),
    [
        ("dqn", "episode_memory: 0", "episode_memory: 3", "has the memories agent, this run agent, episodes; "),
        ("r2d2", "episode_memory: 2", "episode_memory: 0", "has the memories agent, episodes, this run agent; "),
        ("dqn", "replay_capacity: 400", "replay_capacity: 800", "continue with the same options of the replay"),
    ],
)
def test_a_replay_of_other_options_is_refused(case: str, was: str, becomes: str, refusal: str, tmp_path: Path) -> None:
    path = train(case, tmp_path, "run", total_frames=400)
    config = path / "config.yaml"
    assert was in config.read_text()
    config.write_text(config.read_text().replace(was, becomes))
    with pytest.raises(UserError, match=refusal):
        machina.resume(path, total_frames=800)


def test_a_run_that_was_moved_has_its_replay_and_what_others_put_there_stays(tmp_path: Path) -> None:
    path = train("dqn", tmp_path / "there", "run", total_frames=400)
    moved = tmp_path / "here" / "run"
    moved.parent.mkdir()
    path.rename(moved)
    (moved / "replay" / "notes").mkdir()
    machina.resume(moved, total_frames=800)
    assert (moved / "replay" / "notes").is_dir()
    started = train("dqn", tmp_path, "started", total_frames=400, init_from=str(moved))
    assert written(started) == listed(started)
    first = next(line for line in read_metrics(started) if "replay/collected" in line)
    assert first["replay/collected"] == first["env_steps"], "another run begins with an empty replay"


@pytest.mark.parametrize("case", ["dqn", "apex, 2 shards, best episodes"])
def test_the_account_and_the_replay_ratio_continue_in_place_local(case: str, tmp_path: Path) -> None:
    path = train(case, tmp_path, "run", place="local", total_frames=600)
    machina.resume(path, total_frames=1200)
    last = [line for line in read_metrics(path) if "replay/ratio" in line][-1]
    collected, *others = (last[f"replay/{name}"] or 0 for name in ("collected", "stored", "removed", "lost"))
    assert collected == sum(others) >= 1200
    assert last["replay/ratio"] == pytest.approx(CASES[case][2]["replay_ratio"], rel=0.1)


def test_auto_saves_what_is_not_larger_than_4_gib() -> None:
    assert SAVED_BYTES == 4 * 1024**3
    for option, below, above in (("auto", True, False), ("always", True, True), ("never", False, False)):
        config = ReplayingConfig(save_replay=option)
        assert (config.saves_replay(SAVED_BYTES), config.saves_replay(SAVED_BYTES + 1)) == (below, above)
