"""Configuration of PQN. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from machina.algorithms.epochs.config import MinibatchConfig
from machina.algorithms.exploration.config import ExplorationConfig
from machina.algorithms.reward_config import RewardConfig
from machina.nets.config import QNetworkConfig


class PQNConfig(RewardConfig, ExplorationConfig, MinibatchConfig):
    """``--config defaults`` has the values of the published code (arXiv 2407.04811) unless a field says otherwise.

    Fields whose name ends in ``_final`` are reached linearly, epsilon's over ``exploration_share`` of the run.
    """

    unroll_length: int = Field(default=32, ge=1, le=1_000_000, description="T: env steps per unroll.")
    epochs: int = Field(default=2, ge=1, le=1000, description="Passes over each batch.")
    minibatches: int = Field(
        default=4,
        ge=1,
        le=10**9,
        description="Parts that every epoch splits a batch into, an optimizer step each; 4 of 16 environments are "
        "of 128 env steps, as are the published 32 of 128 environments.",
    )
    learning_rate: float = Field(default=2.5e-4, gt=0, le=100, description="Step size of RAdam at the start.")
    learning_rate_final: float | None = Field(
        default=None, ge=0, le=100, description="Step size of RAdam at the end of the run; None: as at the start."
    )
    gamma: float = Field(default=0.99, gt=0, le=1, description="Discount per env step.")
    q_lambda: float = Field(
        default=0.65, ge=0, le=1, description="Decay of the traces: 0 is the one-step target, 1 the whole return."
    )
    max_grad_norm: float = Field(
        default=10.0, gt=0, le=1e12, description="The gradient's norm over all weights is clipped to this."
    )
    reward_clip: Literal["auto", "clip", "none"] = Field(
        default="auto",
        description="clip: the learner sees rewards clipped to [-1, 1]; none: as the environment gave them; auto: "
        "clipped for Atari games, as in the published code.",
    )
    network: QNetworkConfig = QNetworkConfig()
