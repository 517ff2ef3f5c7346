"""What the learners of all shipped algorithms have in common: the trained network, and how it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from machina.interfaces import LearnerState
from machina.learner.trained_network import TrainedNetwork
from machina.nets.network import Network
from machina.nets.parameters import flattened
from machina.nets.precision import resolve_precision
from machina.specs import EnvSpec

N = TypeVar("N", bound=Network[Any])


class BaseLearner(Generic[N]):
    """Everything of ``machina.interfaces.Learner`` but ``update``, which a subclass defines.

    Args:
        spec: of the environment.
        model: the network with its optimizer and statistics.
        precision: ``auto``, ``float32`` or ``bfloat16``.
    """

    def __init__(self, spec: EnvSpec, model: TrainedNetwork[N], precision: str) -> None:
        self.spec = spec
        self.model = model
        self.device: torch.device = model.device
        self.precision = resolve_precision(precision, self.device, spec.observation_bytes)
        self.updates = 0

    def flat_parameters(self) -> Tensor:
        """A new flat float32 CPU vector with all parameters, for publication."""
        return flattened(self.model.network)

    def state(self) -> LearnerState:
        """Copies of everything that the next update depends on."""
        return LearnerState(tensors=self.model.state(), values={"updates": self.updates})

    def load_state(self, state: LearnerState) -> None:
        """Continue from ``state`` bit for bit.

        Raises:
            UserError: the state belongs to another network.
        """
        self.model.load_state(state.tensors)
        self.updates = state.values["updates"]

    def load_initial(self, tensors: Mapping[str, Tensor], with_value: bool) -> None:
        """Start from another run's model; see ``TrainedNetwork.load_initial``."""
        self.model.load_initial(tensors, with_value)


def explained_variance(targets: tuple[float, float], errors: tuple[float, float], steps: float) -> float:
    """1 less the share of the targets' variance that is left in the errors; 0 where the targets are all alike.

    Args:
        targets: their sum, and that of their squares.
        errors: the same of targets less values.
        steps: over which the sums go, 1 at least.
    """
    variance, left = (squares / steps - (total / steps) ** 2 for total, squares in (targets, errors))
    return 1 - left / variance if variance > 1e-12 else 0.0


def linear(start: float, end: float | None, done: float) -> float:
    """A value that moves linearly over the run.

    Args:
        start: at the run's start.
        end: at its end; None keeps the start.
        done: fraction of the run that is done; beyond 1 the end holds.
    """
    return start if end is None else start + (end - start) * min(1.0, done)
