"""Small leagues on Connect Four."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import machina

SMALL_LEAGUE: dict[str, Any] = {
    "place": "inline",
    "precision": "float32",
    "actor_threads": 1,
    "learner_threads": 1,
    "env_threads": 1,
    "envs_per_task": 8,
    "unroll_length": 16,
    "batch_size": 16,
    "minibatches": 2,
    "epochs": 1,
    "learning_rate": 0.02,
    "torso": "mlp",
    "hidden_sizes": (16,),
    "total_frames": 2560,
    "snapshot_updates": 2,
    "rating_games": 10,
}
"""Options of `machina.train`: 10 updates, 5 snapshots, whose policies differ."""

SNAPSHOTS = tuple(f"u{updates:06d}" for updates in range(2, 11, 2))


def small_league(folder: Path, name: str, environment: str = "connect_four", **options: Any) -> Path:
    """Train one; its run directory."""
    return machina.train("ppo", environment, "defaults", name=name, runs_dir=folder, **{**SMALL_LEAGUE, **options}).path
