"""The parts of dqn for an environment."""

from __future__ import annotations

from machina.algorithms.replaying.algorithm import TransitionAlgorithm
from machina.algorithms.replaying.config import TransitionConfig


def build(config: TransitionConfig) -> TransitionAlgorithm:
    """The algorithm with these options."""
    return TransitionAlgorithm(config, "dqn")
