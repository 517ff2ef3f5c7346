"""Configuration of IMPALA. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from machina.algorithms.actor_critic.config import ActorCriticConfig


class ImpalaConfig(ActorCriticConfig):
    """``--config defaults`` has the values of table G.1 (arXiv 1802.01561) unless a field says otherwise."""

    batch_size: int | None = Field(
        default=32,
        ge=1,
        le=1_000_000,
        description="Unrolls per learner update; None: one of every slot (environment and agent).",
    )
    learning_rate: float = Field(
        default=6e-4, gt=0, le=100, description="Step size at the start; linear to 0 over the run's total frames."
    )
    optimizer: Literal["rmsprop", "adam"] = Field(
        default="rmsprop", description="rmsprop is TensorFlow 1's (epsilon inside the root), as in the paper."
    )
    rmsprop_decay: float = Field(default=0.99, ge=0, lt=1, description="Decay of the squared gradients (paper's code).")
    rmsprop_epsilon: float = Field(
        default=0.01, ge=1e-30, le=1000, description="Added to the squared gradients, inside the root."
    )
    rmsprop_momentum: float = Field(default=0.0, ge=0, lt=1, description="Momentum of RMSProp.")
    adam_epsilon: float = Field(default=1e-8, ge=1e-30, le=1000, description="Epsilon of Adam (PyTorch's default).")
    gamma: float = Field(default=0.99, gt=0, le=1, description="Discount per env step.")
    entropy_cost: float = Field(
        default=0.01, ge=0, le=1000, description="Weight of the entropy bonus, summed over steps."
    )
    baseline_cost: float = Field(
        default=0.5, ge=0, le=1000, description="Weight of half the squared value error, summed over steps."
    )
    rho_clip: float = Field(default=1.0, gt=0, le=1e6, description="V-trace rho-bar; at least the c clip.")
    c_clip: float = Field(default=1.0, gt=0, le=1e6, description="V-trace c-bar.")
    pg_rho_clip: float = Field(default=1.0, gt=0, le=1e6, description="Clip of the ratio in the policy gradient.")
    vtrace_lambda: float = Field(default=1.0, ge=0, le=1, description="Decay of the V-trace traces (remark 2).")
    max_grad_norm: float = Field(
        default=40.0, gt=0, le=1e12, description="The gradient's norm over all weights is clipped to this."
    )
    reward_clip: Literal["auto", "clip", "none"] = Field(
        default="auto",
        description="clip: the learner sees rewards clipped to [-1, 1]; none: as the environment gave them; auto: "
        "clipped for Atari games, as in the paper.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> ImpalaConfig:
        if self.rho_clip < self.c_clip:
            raise ValueError(
                f"rho_clip {self.rho_clip} is below c_clip {self.c_clip}; V-trace converges for rho_clip >= c_clip"
            )
        return self
