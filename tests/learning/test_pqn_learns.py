"""PQN learns small tasks in seconds, in every place, from vectors, with and without memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import machina
from machina.jobs.api import TrainedRun
from machina.metrics import read_metrics

QUICK: dict[str, Any] = {
    "precision": "float32",
    "learner_threads": 1,
    "actor_threads": 1,
    "env_threads": 1,
    "envs_per_task": 16,
    "unroll_length": 16,
    "minibatches": 4,
    "epochs": 2,
    "learning_rate": 2e-3,
    "epsilon_final": 0.02,
    "exploration_share": 0.5,
    "hidden_sizes": (32,),
}


def train(environment: str, runs_dir: Path, **options: Any) -> TrainedRun:
    return machina.train("pqn", environment, name="run", runs_dir=runs_dir, **options)


@pytest.mark.parametrize("runtime", [{"place": "inline"}, {"place": "local", "lock_step": True}, {"place": "local"}])
def test_catch_is_learned(runtime: dict[str, Any], tmp_path: Path) -> None:
    """Best return 1, random -0.6; evaluation never explores, and epsilon is among the metrics."""
    run = train("catch", tmp_path, total_frames=60_000, log_seconds=0.05, **QUICK, **runtime)
    assert machina.evaluate(run.path, episodes=200, seed=1).mean_returns["catch"] >= 0.9
    lines = read_metrics(run.path)
    shown = [line["actor/epsilon"] or 0 for line in lines if "actor/epsilon" in line]
    assert shown[-1] < 0.1
    assert max(line.get("actor/policy_lag_max") or 0 for line in lines) <= (1 if runtime == {"place": "local"} else 0)


@pytest.mark.slow
def test_a_cue_is_recalled_after_20_steps_with_an_lstm_and_not_without(tmp_path: Path) -> None:
    """Best return 1, and 0 or less for who does not remember."""
    options = {
        **QUICK,
        "place": "inline",
        "unroll_length": 40,
        "total_frames": 400_000,
        "gamma": 0.97,
        "q_lambda": 0.95,
    }
    with_memory = train("recall", tmp_path / "with", lstm_size=32, **options)
    without = train("recall", tmp_path / "without", **options)
    assert machina.evaluate(with_memory.path, episodes=100).mean_returns["recall"] > 0.9
    assert machina.evaluate(without.path, episodes=100).mean_returns["recall"] < 0.3


def test_two_tasks_with_a_head_each(tmp_path: Path) -> None:
    """Best returns 10 and 10,000; clipped rewards are of one size."""
    options = {**QUICK, "place": "inline", "total_frames": 60_000, "reward_clip": "clip"}
    run = train("two_scales", tmp_path, task_heads=True, **options)
    returns = machina.evaluate(run.path, episodes=50, seed=1).mean_returns
    assert returns["small"] >= 9
    assert returns["large"] >= 9_000
