"""The bound on the age of what is learned: actors wait rather than collect what would be dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import machina
from machina.metrics import read_metrics

SMALL: dict[str, Any] = {
    "precision": "float32",
    "actor_threads": 1,
    "learner_threads": 1,
    "env_threads": 1,
    "envs_per_task": 16,
    "unroll_length": 10,
    "batch_size": 16,
    "hidden_sizes": (16,),
    "total_frames": 24_000,
    "log_seconds": 1e-6,
}


@pytest.mark.parametrize("lag", [0, 1, 3])
@pytest.mark.parametrize("actors", [1, 2])
def test_what_is_learned_is_young_and_little_is_dropped(lag: int, actors: int, tmp_path: Path) -> None:
    run = machina.train(
        "ppo", "catch", "defaults", runs_dir=tmp_path, name="run", max_policy_lag=lag, actors=actors, **SMALL
    )
    rows = [{name: value for name, value in row.items() if value is not None} for row in read_metrics(run.path)]
    assert max(row["actor/policy_lag_max"] for row in rows) <= lag
    assert rows[-1]["queue/learned"] >= 2400
    assert rows[-1]["queue/dropped"] <= 0.2 * rows[-1]["queue/accepted"]
