"""A disk that fills up: periodic checkpoints are missed with a notice, the last one is an error; nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from pathlib import Path

import pytest
import torch
from commands import SMALL_NET, TINY
from processes import start

import machina
from machina.checkpoint import RunDirectory, store
from machina.checkpoint.files import write_synced
from machina.metrics import read_metrics

MODEL_BYTES = 16 * 4 * 50
"""The first layer alone: 50 inputs, 16 units."""


def limit(size: int) -> None:
    """No file may grow beyond ``size`` bytes, which the system answers as it does a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def options(*more: str) -> tuple[str, ...]:
    schedule = ("--total-frames", "400", "--envs-per-task", "4", "--runs-dir", "runs", "--name", "run")
    return ("train", "impala", "catch", *TINY, *SMALL_NET, *schedule, *more)


def test_a_run_continues_without_its_periodic_checkpoints(tmp_path: Path) -> None:
    process = start(*options("--checkpoint-minutes", "1e-9"), cwd=tmp_path, preexec_fn=lambda: limit(MODEL_BYTES))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in out + err
    missed = [line for line in out.splitlines() if "could not be written" in line]
    assert len(missed) == 20, "one for each of the 20 updates"
    assert all(line.endswith("; the run continues") for line in missed)
    last = err.splitlines()[-1]
    assert last.startswith("machina: checkpoint at env step 400 could not be written to ")
    assert "the last good checkpoint is untouched" in last
    assert all(line.startswith("machina: ") or "metrics can't be written" in line for line in err.splitlines())
    run = tmp_path / "runs" / "run"
    assert list((run / "checkpoints").iterdir()) == [], "nothing half is left"
    assert all(line["env_steps"] for line in read_metrics(run))


def test_what_was_saved_before_stays_good(tmp_path: Path) -> None:
    start(*options("--checkpoint-minutes", "1e-9", "--keep-checkpoints", "99"), cwd=tmp_path).communicate(timeout=120)
    run = tmp_path / "runs" / "run"
    folders = sorted(path for path in (run / "checkpoints").iterdir() if path.is_dir())
    for folder in folders[7:]:
        shutil.rmtree(folder)
    process = start("resume", run, cwd=tmp_path, preexec_fn=lambda: limit(MODEL_BYTES))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("machina: checkpoint at env step 400 could not be written to ")
    latest = RunDirectory.open(run).latest()
    assert (latest.checkpoint.step, latest.warnings) == (140, [])
    assert machina.resume(run).env_steps == 400


@pytest.mark.parametrize("command", ["eval", "watch", "plot"])
def test_results_that_can_t_be_written(command: str, tmp_path: Path) -> None:
    start(*options(), cwd=tmp_path).communicate(timeout=120)
    run = tmp_path / "runs" / "run"
    process = start(command, run, cwd=tmp_path, preexec_fn=lambda: limit(100))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("machina: ")
    assert "could not be written" in err.splitlines()[-1]


def test_a_run_that_can_t_even_begin(tmp_path: Path) -> None:
    process = start(*options(), cwd=tmp_path, preexec_fn=lambda: limit(100))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.count("\n") == 1
    assert "can't be created" in err
    assert list(tmp_path.iterdir()) == [], "nothing half is left, and the name is free"


@pytest.mark.parametrize(
    ("width", "refused", "times", "snapshots"),
    [
        (4, "'runs/run/league/league.json' could not be written: File too large; the former one stays", 1, 10),
        (16, "snapshot 'runs/run/league/snapshots/u0000", 10, 0),
    ],
    ids=["table", "snapshots"],
)
def test_a_league_continues_without_its_table_or_its_snapshots(
    width: int, refused: str, times: int, snapshots: int, tmp_path: Path
) -> None:
    """Small snapshots have room, their table soon has none, which is reported once; large ones have none at all."""
    net = ("--config", "defaults", "--torso", "mlp", "--hidden-sizes", str(width), "--minibatches", "2")
    batch = (*TINY, "--envs-per-task", "8", "--unroll-length", "16", "--batch-size", "16", "--epochs", "1")
    schedule = ("--snapshot-updates", "1", "--rating-games", "2", "--total-frames", "2560")
    where = ("--runs-dir", "runs", "--name", "run", "--checkpoint-minutes", "1e-9")
    arguments = ("league", "connect_four", *batch, *net, *schedule, *where)
    process = start(*arguments, cwd=tmp_path, preexec_fn=lambda: limit(2_500))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in out + err
    lines = out.splitlines()
    assert sum(line.startswith("checkpoint at env step") for line in lines) == 10, "one for each of the 10 updates"
    assert sum(line.startswith(refused) for line in lines) == times
    assert err.splitlines()[-1].startswith("machina: checkpoint at env step 2560 could not be written to ")
    league = tmp_path / "runs" / "run" / "league"
    assert len(list(league.glob("snapshots/*"))) == snapshots, "nothing half is left"
    assert len(json.loads((league / "league.json").read_text())["snapshots"]) < 10, "what was written last"


class SmallDisk:
    """Refuses what would make a folder larger than ``size`` bytes, as a full disk does."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size

    def write(self, path: Path, content: bytes) -> None:
        used = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        if used + len(content) > self.size:
            path.write_bytes(content[: max(0, self.size - used)])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_synced(path, content)


def save(run: RunDirectory, step: int, notices: list[str], keep_last: int = 9) -> Path:
    return run.save(step, {"model": {"weight": torch.full((1000,), float(step))}}, {}, keep_last, notices.append)


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunDirectory, SmallDisk]:
    """A run with checkpoints at 10, 20 and 30 on a disk that has room for three and a half."""
    run = RunDirectory.create(tmp_path, "run", "")
    for step in (10, 20, 30):
        newest = save(run, step, [])
    each = sum(file.stat().st_size for file in newest.iterdir())
    disk = SmallDisk(run.checkpoints, int(3.5 * each))
    monkeypatch.setattr(store, "write_synced", disk.write)
    return run, disk


def steps(run: RunDirectory) -> list[int]:
    return [int(path.name) for path in store.checkpoint_paths(run.checkpoints)]


def test_old_checkpoints_make_room_for_the_newest(saved: tuple[RunDirectory, SmallDisk]) -> None:
    run, _ = saved
    run.mark_best(10, 1.0)
    notices: list[str] = []
    save(run, 40, notices)
    assert steps(run) == [10, 30, 40], "the best one stays"
    assert len(notices) == 1
    assert "000000000020' made room for that of env step 40" in notices[0]
    assert (run.latest().checkpoint.step, run.latest().warnings) == (40, [])
    save(run, 50, notices)
    assert steps(run) == [10, 40, 50]


def test_the_last_good_checkpoint_makes_no_room(saved: tuple[RunDirectory, SmallDisk]) -> None:
    """Before the new one is complete there would be none to continue from; a bad one goes, however new it is."""
    run, disk = saved
    bad = store.checkpoint_paths(run.checkpoints)[-1]
    (bad / "model.safetensors").write_bytes(b"")
    disk.size = sum(file.stat().st_size for file in bad.parent.rglob("*") if file.is_file()) // 2 + 100
    with pytest.raises(store.CheckpointError, match=r"could not be written .*No space left on device"):
        save(run, 40, [])
    assert steps(run) == [20]
    assert run.latest().checkpoint.step == 20


def test_a_disk_that_refuses_for_another_reason_costs_no_checkpoint(
    saved: tuple[RunDirectory, SmallDisk], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = saved

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(store, "write_synced", refuse)
    with pytest.raises(store.CheckpointError):
        save(run, 40, [])
    assert steps(run) == [10, 20, 30]
