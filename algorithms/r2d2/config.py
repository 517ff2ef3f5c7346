"""Configuration of R2D2. Imports no torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from machina.algorithms.replaying.config import PriorityKind, ReplayingConfig
from machina.defaults import with_default
from machina.nets.config import ValueNetworkConfig


class R2D2Config(ReplayingConfig):
    """Table 2 of the paper (OpenReview r1lyTjAqYX) unless a field says otherwise.

    An item is a sequence: burn_in_length env steps that only bring the core state up to date, then sequence_length that
    are learned. One begins at every stored unroll, so that sequences overlap by sequence_length - unroll_length.
    """

    unroll_length: int = with_default(ReplayingConfig, "unroll_length", 40)
    burn_in_length: int = Field(
        default=40, ge=0, le=100_000, description="Env steps that bring the core state up to date, without gradient."
    )
    sequence_length: int = Field(default=80, ge=1, le=100_000, description="Env steps of a sequence that are learned.")
    stored_state: bool = Field(
        default=True, description="A sequence begins with the core state that its actor had; else with zeros."
    )
    rescales_values: bool = Field(
        default=True, description="Values are squashed (arXiv 1805.11593) instead of clipping rewards."
    )
    largest_error_weight: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="eta: a sequence's priority is eta times its largest error plus 1 - eta times their mean.",
    )
    batch_size: int = with_default(ReplayingConfig, "batch_size", 64)
    replay_capacity: int = with_default(ReplayingConfig, "replay_capacity", 4_000_000)
    replay_ratio: float = with_default(ReplayingConfig, "replay_ratio", 0.8)
    gamma: float = with_default(ReplayingConfig, "gamma", 0.997)
    n_step: int = with_default(ReplayingConfig, "n_step", 5)
    double_q: bool = with_default(ReplayingConfig, "double_q", True)
    loss: Literal["huber", "squared"] = with_default(ReplayingConfig, "loss", "squared")
    priority: PriorityKind = with_default(ReplayingConfig, "priority", "proportional")
    priority_exponent: float = with_default(ReplayingConfig, "priority_exponent", 0.9)
    importance_sampling_exponent: float = with_default(ReplayingConfig, "importance_sampling_exponent", 0.6)
    importance_sampling_exponent_final: float = with_default(ReplayingConfig, "importance_sampling_exponent_final", 0.6)
    initial_priority: Literal["largest", "actor"] = with_default(ReplayingConfig, "initial_priority", "actor")
    epsilon: float = with_default(ReplayingConfig, "epsilon", 0.4)
    epsilon_final: float = with_default(ReplayingConfig, "epsilon_final", 0.4)
    epsilon_spread: float = with_default(ReplayingConfig, "epsilon_spread", 7.0)
    learning_rate: float = with_default(ReplayingConfig, "learning_rate", 1e-4)
    adam_epsilon: float = with_default(ReplayingConfig, "adam_epsilon", 1e-3)
    max_grad_norm: float = with_default(ReplayingConfig, "max_grad_norm", 40.0)
    reward_clip: Literal["auto", "clip", "none"] = with_default(ReplayingConfig, "reward_clip", "none")
    network: ValueNetworkConfig = ValueNetworkConfig(dueling=True, lstm_size=512)

    @property
    def item_length(self) -> int:
        """Of a sequence with its burn-in."""
        return self.burn_in_length + self.sequence_length

    @property
    def item_steps(self) -> int:
        """The learned part of a sequence."""
        return self.sequence_length

    @model_validator(mode="after")
    def _recurrent(self) -> Self:
        if not self.network.lstm_size:
            raise ValueError("lstm_size=0: r2d2 learns a recurrent network; use --lstm-size 512, or apex without one")
        if self.network.atoms > 1:
            raise ValueError(f"atoms={self.network.atoms}: r2d2 learns means only; use atoms=1, or rainbow")
        if self.sequence_length < self.unroll_length:
            raise ValueError(
                f"sequence_length={self.sequence_length}: a sequence begins every unroll_length={self.unroll_length} "
                "env steps, and those between two would never be learned; use "
                f"unroll_length={self.sequence_length} or less"
            )
        return self
