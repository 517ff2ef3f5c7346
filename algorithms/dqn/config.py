"""Configuration of DQN. Imports no torch."""

from __future__ import annotations

from typing import Literal

from machina.algorithms.replaying.config import ReplayingConfig, TransitionConfig
from machina.defaults import with_default


class DQNConfig(TransitionConfig):
    """``--config defaults`` has the values of the published code (DQN Zoo) unless a field says otherwise.

    The target network is copied every 40,000 frames, which are 2,500 updates.
    """

    epsilon_final: float = with_default(ReplayingConfig, "epsilon_final", 0.1)
    exploration_share: float = with_default(ReplayingConfig, "exploration_share", 0.02)
    optimizer: Literal["adam", "rmsprop"] = with_default(ReplayingConfig, "optimizer", "rmsprop")
    learning_rate: float = with_default(ReplayingConfig, "learning_rate", 2.5e-4)
