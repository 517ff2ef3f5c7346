"""Configuration of Ape-X. Imports no torch."""

from __future__ import annotations

from typing import Literal

from machina.algorithms.replaying.config import PriorityKind, ReplayingConfig, TransitionConfig
from machina.defaults import with_default
from machina.nets.config import ValueNetworkConfig


class ApexConfig(TransitionConfig):
    """The paper's values (arXiv 1803.00933) as far as they are known; each item is learned about 1.3 times there.

    Epsilon is constant and falls from slot to slot: ``0.4 ** (1 + 7 i / (N - 1))``.
    """

    unroll_length: int = with_default(ReplayingConfig, "unroll_length", 20)
    batch_size: int = with_default(ReplayingConfig, "batch_size", 512)
    replay_capacity: int = with_default(ReplayingConfig, "replay_capacity", 2_000_000)
    replay_ratio: float = with_default(ReplayingConfig, "replay_ratio", 1.3)
    n_step: int = with_default(ReplayingConfig, "n_step", 3)
    double_q: bool = with_default(ReplayingConfig, "double_q", True)
    priority: PriorityKind = with_default(ReplayingConfig, "priority", "proportional")
    importance_sampling_exponent_final: float = with_default(ReplayingConfig, "importance_sampling_exponent_final", 0.4)
    initial_priority: Literal["largest", "actor"] = with_default(ReplayingConfig, "initial_priority", "actor")
    epsilon: float = with_default(ReplayingConfig, "epsilon", 0.4)
    epsilon_final: float = with_default(ReplayingConfig, "epsilon_final", 0.4)
    epsilon_spread: float = with_default(ReplayingConfig, "epsilon_spread", 7.0)
    optimizer: Literal["adam", "rmsprop"] = with_default(ReplayingConfig, "optimizer", "rmsprop")
    learning_rate: float = with_default(ReplayingConfig, "learning_rate", 6.25e-5)
    rmsprop_epsilon: float = with_default(ReplayingConfig, "rmsprop_epsilon", 1.5e-7)
    max_grad_norm: float = with_default(ReplayingConfig, "max_grad_norm", 40.0)
    network: ValueNetworkConfig = ValueNetworkConfig(dueling=True)
