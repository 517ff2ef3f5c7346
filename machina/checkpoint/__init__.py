"""Run directories and checkpoints: safetensors and JSON, checksummed, never pickle."""

from machina.checkpoint.run_directory import Best, RunDirectory, load_from
from machina.checkpoint.store import (
    Checkpoint,
    CheckpointError,
    Latest,
    TensorRow,
    inspect_checkpoint,
    latest_checkpoint,
    load_checkpoint,
    prune,
    save_checkpoint,
)

__all__ = [
    "Best",
    "Checkpoint",
    "CheckpointError",
    "Latest",
    "RunDirectory",
    "TensorRow",
    "inspect_checkpoint",
    "latest_checkpoint",
    "load_checkpoint",
    "load_from",
    "prune",
    "save_checkpoint",
]
