"""Small runs, and what a checkpoint of one holds."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from machina.algorithms.impala.learning import ImpalaLearner
from machina.algorithms.ppo.learning import PPOLearner
from machina.algorithms.replaying.target_network import TargetNetworkLearner
from machina.checkpoint import RunDirectory, load_checkpoint
from machina.checkpoint.pieces import Piece, PieceFolder
from machina.interfaces import Learner
from machina.types import Array, Learned, Unroll

SMALL: dict[str, Any] = {
    "place": "inline",
    "precision": "float32",
    "actor_threads": 1,
    "learner_threads": 1,
    "env_threads": 1,
    "unroll_length": 5,
    "batch_size": 4,
    "hidden_sizes": (16,),
    "learning_rate": 3e-3,
}
"""Options of `machina.train` that make an update take a millisecond."""

TIMING = ("speed/", "time/", "process/", "wall_s")
"""Metrics that no two runs share."""


def content(checkpoint: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Every tensor by "file/name", and every value but times and the run's name."""
    loaded = load_checkpoint(checkpoint)
    values = json.loads(json.dumps(loaded.values))
    del values["progress"]["elapsed_s"]
    del values["identity"]["run"]
    tensors = {f"{stem}/{name}": tensor for stem, group in loaded.tensors.items() for name, tensor in group.items()}
    # Files of the replay have names of their own; versions of its chunks count writes of one session.
    for piece in values.pop("replay", []):
        read = PieceFolder(checkpoint.parent.parent).read(Piece(**piece), checkpoint)
        tensors |= {f"{piece['part']}/{name}": torch.from_numpy(array) for name, array in read.items()}
    return tensors, values


def assert_same_content(one: Path, other: Path) -> None:
    """Two checkpoints hold the same, bit for bit."""
    (tensors, values), (other_tensors, other_values) = content(one), content(other)
    assert sorted(tensors) == sorted(other_tensors)
    different = [name for name, tensor in tensors.items() if not torch.equal(tensor, other_tensors[name])]
    assert different == []
    assert values == other_values


def checkpoints(run: Path) -> list[Path]:
    """A run's checkpoints in order."""
    return sorted(path for path in (run / "checkpoints").iterdir() if path.is_dir())


def last_checkpoint(run: Path) -> Path:
    """The one that `machina resume` takes."""
    return RunDirectory.open(run).latest().checkpoint.path


def untimed(lines: list[dict[str, float | None]]) -> list[dict[str, float | None]]:
    """Metrics without what depends on the clock."""
    return [{name: value for name, value in line.items() if not name.startswith(TIMING)} for line in lines]


def signal_at(
    update: int,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    learner: type[Learner] = ImpalaLearner,
) -> None:
    """Send this process a real signal when the learner has made this many updates."""
    original = learner.update

    def update_and_send(self: Learner, batch: Unroll[Array], done: float) -> Learned:
        assert isinstance(self, ImpalaLearner | PPOLearner | TargetNetworkLearner)
        learned = original(self, batch, done)
        if self.updates == update:
            assert threading.current_thread() is threading.main_thread()
            os.kill(os.getpid(), number)
        return learned

    monkeypatch.setattr(learner, "update", update_and_send)
