"""Whole runs with the learner on a GPU."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import content, last_checkpoint, signal_at

import machina
from machina.algorithms.ppo.learning import PPOLearner
from machina.jobs.api import TrainedRun

pytestmark = pytest.mark.gpu

RUNTIMES: dict[str, dict[str, Any]] = {
    "inline": {"place": "inline"},
    "local": {"place": "local"},
    "lock-step": {"place": "local", "lock_step": True},
    "actors on the CPU": {"place": "local", "actor_device": "cpu"},
}


def train(runs_dir: Path, **options: Any) -> TrainedRun:
    fast: dict[str, Any] = {"unroll_length": 20, "epochs": 4, "learning_rate": 5e-3, "clip": 0.2, "hidden_sizes": (64,)}
    fast |= {"entropy_cost": 0.005, "envs_per_task": 32, "batch_size": 32, "device": "cuda", "total_frames": 60_000}
    return machina.train("ppo", "catch", config="defaults", name="run", runs_dir=runs_dir, **fast | options)


@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=RUNTIMES)
def test_catch_is_learned(runtime: dict[str, Any], tmp_path: Path) -> None:
    """Best return 1, random -0.6."""
    run = train(tmp_path, **runtime)
    assert machina.evaluate(run.path, episodes=200, seed=1).mean_returns["catch"] >= 0.85


def test_a_stopped_run_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tmp_path / "whole", place="inline", total_frames=6_400)
    with monkeypatch.context() as patch:
        signal_at(5, signal.SIGTERM, patch, PPOLearner)
        halves = train(tmp_path / "halves", place="inline", total_frames=6_400)
    assert (halves.updates, whole.updates) == (5, 10)
    assert machina.resume(halves.path).updates == 10
    (one, values), (other, other_values) = (content(last_checkpoint(run.path)) for run in (whole, halves))
    assert values["progress"] == other_values["progress"]
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        # Sums of a GPU have no fixed order.
        torch.testing.assert_close(other[name], tensor, rtol=0.05, atol=1e-3, msg=name)
