"""The option of every algorithm that may clip rewards. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from machina.config import AlgorithmConfig
from machina.specs import EnvSpec


class RewardConfig(AlgorithmConfig):
    """Rewards as the learner sees them."""

    reward_clip: Literal["auto", "clip", "none"] = Field(
        default="none",
        description="clip: the learner sees rewards clipped to [-1, 1]; none: as the environment gave them; auto: "
        "clipped for Atari games, as is usual for them.",
    )

    def clips_rewards(self, spec: EnvSpec) -> bool:
        """Whether the learner sees the environment's rewards clipped to [-1, 1]."""
        return self.reward_clip == "clip" or (self.reward_clip == "auto" and spec.clip_rewards)
