"""Configuration of Rainbow. Imports no torch."""

from __future__ import annotations

from machina.algorithms.replaying.config import PriorityKind, ReplayingConfig, TransitionConfig
from machina.defaults import with_default
from machina.nets.config import ValueNetworkConfig


class RainbowConfig(TransitionConfig):
    """Table 1 of the paper (arXiv 1710.02298).

    80,000 frames before the first update, a copy of the target network every 32,000, which are 2,000 updates.
    """

    epsilon: float = with_default(ReplayingConfig, "epsilon", 0.0)
    epsilon_final: float = with_default(ReplayingConfig, "epsilon_final", 0.0)
    learning_starts: int = with_default(ReplayingConfig, "learning_starts", 20_000)
    n_step: int = with_default(ReplayingConfig, "n_step", 3)
    double_q: bool = with_default(ReplayingConfig, "double_q", True)
    target_update_period: int = with_default(ReplayingConfig, "target_update_period", 2000)
    priority: PriorityKind = with_default(ReplayingConfig, "priority", "proportional")
    priority_exponent: float = with_default(ReplayingConfig, "priority_exponent", 0.5)
    network: ValueNetworkConfig = ValueNetworkConfig(dueling=True, atoms=51, noise="factorised")
