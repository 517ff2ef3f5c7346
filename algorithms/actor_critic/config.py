"""Options of every actor-critic algorithm. Imports no torch."""

from __future__ import annotations

from pydantic import Field, model_validator

from machina.algorithms.reward_config import RewardConfig
from machina.nets.config import NetworkConfig


class ActorCriticConfig(RewardConfig):
    """Rewards as the learner sees them, value targets, and the network."""

    popart: bool = Field(default=False, description="Normalize the value targets of each task (arXiv 1809.04474).")
    popart_beta: float = Field(
        default=3e-4, gt=0, le=1, description="PopArt's step size, per unroll of the task (arXiv 1809.04474)."
    )
    popart_sigma_min: float = Field(
        default=1e-4, ge=1e-12, le=1e12, description="Least scale of a task (arXiv 1809.04474)."
    )
    popart_sigma_max: float = Field(
        default=1e6, ge=1e-12, le=1e12, description="Largest scale of a task (arXiv 1809.04474)."
    )
    network: NetworkConfig = NetworkConfig()

    @model_validator(mode="after")
    def _sigmas_in_order(self) -> ActorCriticConfig:
        if self.popart_sigma_min >= self.popart_sigma_max:
            raise ValueError(
                f"popart_sigma_min {self.popart_sigma_min} must be below popart_sigma_max {self.popart_sigma_max}"
            )
        return self
