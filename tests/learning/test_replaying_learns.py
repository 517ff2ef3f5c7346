"""The algorithms with a replay learn small tasks in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import machina
from machina.metrics import read_metrics

QUICK: dict[str, Any] = {
    "place": "inline",
    "precision": "float32",
    "learner_threads": 1,
    "actor_threads": 1,
    "env_threads": 1,
    "envs_per_task": 8,
    "unroll_length": 8,
    "learning_starts": 1000,
    "replay_capacity": 20_000,
    "replay_ratio": 4.0,
    "batch_size": 64,
    "learning_rate": 2e-3,
    "target_update_period": 50,
    "hidden_sizes": (32,),
    "n_step": 3,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dqn": (
        "dqn",
        {
            "optimizer": "adam",
            "dueling": True,
            "double_q": True,
            "epsilon_final": 0.1,
            "exploration_share": 0.2,
            "n_step": 5,
        },
    ),
    "rainbow": ("rainbow", {"v_min": -2.0, "v_max": 2.0}),
    "apex": ("apex", {"optimizer": "adam", "replay_shards": 2, "episode_memory": 5}),
}


@pytest.mark.parametrize("case", CASES)
def test_catch_is_learned(case: str, tmp_path: Path) -> None:
    """Best return 1, random -0.6; evaluation takes no random actions and has no noise."""
    algorithm, options = CASES[case]
    run = machina.train(algorithm, "catch", name="run", runs_dir=tmp_path, total_frames=24_000, **(QUICK | options))
    assert machina.evaluate(run.path, episodes=200, seed=1).mean_returns["catch"] >= 0.9
    assert read_metrics(run.path)[-1]["replay/ratio"] == pytest.approx(4, rel=0.05)


@pytest.mark.slow
def test_a_cue_is_recalled_after_20_steps_with_memory_and_not_without(tmp_path: Path) -> None:
    """Best return 1, and 0 on average for who does not remember."""
    with_memory = machina.train(config="r2d2_recall", name="with", runs_dir=tmp_path)
    options = QUICK | CASES["dqn"][1] | {"total_frames": 60_000}
    without = machina.train("dqn", "recall", name="without", runs_dir=tmp_path, **options)
    assert machina.evaluate(with_memory.path, episodes=100).mean_returns["recall"] > 0.9
    assert machina.evaluate(without.path, episodes=100).mean_returns["recall"] < 0.3
