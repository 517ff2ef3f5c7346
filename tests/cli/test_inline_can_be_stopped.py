"""The place ``inline`` looks at signals and the clock between steps, also when a batch takes a quarter of an hour."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from commands import SMALL_NET, TINY
from processes import start, wait_until

import machina
from machina.actors.inline import InlineActors
from machina.buffers.buffer import Batch
from machina.checkpoint import RunDirectory

SLOTS = 4
NAMES = ("--envs-per-task", str(SLOTS), "--processes", "False", "--runs-dir", "runs", "--name", "run")
SLOW = ("train", "impala", "ways_out_env:Slow-v0", *TINY, *SMALL_NET, *NAMES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(Path(__file__).parent / "ways_out_env.py", tmp_path)
    return tmp_path


def test_a_signal_while_a_batch_is_collected(folder: Path) -> None:
    """Two of four slots have begun when it comes; what they hold is counted, and the run can go on."""
    process = start(*SLOW, "--unroll-length", "1000", cwd=folder)
    run = RunDirectory(folder / "runs" / "run")
    wait_until(lambda: (run.path / "status.json").exists() and bool(run.status().actors), process)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "SIGINT received" in out
    assert time.monotonic() - started < 10
    assert run.latest().checkpoint.values["unrolls_at_hand"] == SLOTS


def test_minutes_that_are_over_while_environments_start(folder: Path) -> None:
    process = start(
        "train", "impala", "ways_out_env:SlowStart-v0", *TINY, *SMALL_NET, *NAMES, "--minutes", "0.01", cwd=folder
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith("machina: 0.01 minutes are over and nothing was learned: 0 of 4 environments had started, ")
    assert err.count("\n") == 1


def test_a_round_in_pieces_is_the_same_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call of ``next_batch`` makes one step, and every state of the actors is taken on the way."""
    options: dict[str, Any] = {
        "place": "inline",
        "precision": "float32",
        "actor_threads": 1,
        "learner_threads": 1,
        "actors": 2,
    }
    options |= {"envs_per_task": 7, "unroll_length": 5, "batch_size": 4, "hidden_sizes": (16,), "lstm_size": 8}
    next_batch, rests = InlineActors.next_batch, 0

    def in_pieces(self: InlineActors, updates: int, _: float) -> Batch | None:
        nonlocal rests
        batch = next_batch(self, updates, 0.0)
        if batch is None:
            rests += self.unrolls_at_hand() > 0
            self.state()
        return batch

    runs = []
    for pieces in (False, True):
        if pieces:
            monkeypatch.setattr(InlineActors, "next_batch", in_pieces)
        name = f"pieces-{pieces}"
        run = machina.train("impala", "catch", runs_dir=tmp_path, name=name, total_frames=600, **options)
        runs.append(RunDirectory(run.path).latest().checkpoint)
    assert rests > 30
    assert runs[0].values["episodes"] == runs[1].values["episodes"]
    whole, pieced = (checkpoint.tensors for checkpoint in runs)
    assert whole.keys() == pieced.keys()
    for file, tensors in whole.items():
        assert all(bool((tensor == pieced[file][key]).all()) for key, tensor in tensors.items())
