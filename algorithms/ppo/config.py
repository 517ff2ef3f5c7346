"""Configuration of PPO. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from machina.algorithms.actor_critic.config import ActorCriticConfig
from machina.algorithms.epochs.config import MinibatchConfig


class PPOConfig(ActorCriticConfig, MinibatchConfig):
    """``--config defaults`` has the paper's values for Atari (arXiv 1707.06347, T5) unless a field says otherwise.

    Fields whose name ends in ``_final`` are reached linearly over the run's total frames; None keeps the start.
    """

    unroll_length: int = Field(default=128, ge=1, le=1_000_000, description="T: env steps per unroll.")
    epochs: int = Field(default=3, ge=1, le=1000, description="Passes over each batch.")
    minibatches: int = Field(
        default=4,
        ge=1,
        le=10**9,
        description="Parts that every epoch splits a batch into, an optimizer step each.",
    )
    learning_rate: float = Field(default=2.5e-4, gt=0, le=100, description="Step size of Adam at the start.")
    learning_rate_final: float | None = Field(default=0.0, ge=0, le=100, description="Step size of Adam at the end.")
    adam_epsilon: float = Field(
        default=1e-5, ge=1e-30, le=1000, description="Epsilon of Adam (the paper's published code)."
    )
    gamma: float = Field(default=0.99, gt=0, le=1, description="Discount per own env step of the agent.")
    gae_lambda: float = Field(default=0.95, ge=0, le=1, description="Decay of the advantage's traces.")
    clip: float = Field(
        default=0.1, gt=0, le=100, description="The probability ratio counts within 1 - clip and 1 + clip."
    )
    clip_final: float | None = Field(default=0.0, ge=0, le=100, description="The clip at the end.")
    value_clip: float | None = Field(
        default=None,
        gt=0,
        le=1e12,
        description="Bound on the value's change per update; None: none, as in the paper.",
    )
    value_cost: float = Field(
        default=1.0, ge=0, le=1000, description="Weight of half the squared value error, mean over steps."
    )
    entropy_cost: float = Field(
        default=0.01, ge=0, le=1000, description="Weight of the entropy, mean over steps, at the start."
    )
    entropy_cost_final: float | None = Field(
        default=None, ge=0, le=1000, description="Weight of the entropy at the end."
    )
    target_kl: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="An epoch whose mean KL from the policy that acted exceeds this is the last; in nats.",
    )
    max_grad_norm: float = Field(
        default=0.5,
        gt=0,
        le=1e12,
        description="The gradient's norm over all weights is clipped to this (the published code).",
    )
    normalize_advantages: bool = Field(
        default=True, description="Advantages of a batch have mean 0 and deviation 1 (the published code)."
    )
    team_spirit: float = Field(
        default=0.0, ge=0, le=1, description="tau: share of the team's mean in each agent's reward (arXiv 1912.06680)."
    )
    team_spirit_final: float | None = Field(default=None, ge=0, le=1, description="tau at the end.")
    zero_sum: bool = Field(default=False, description="Subtract the mean reward of the other teams (appendix G there).")
    popart_beta: float = Field(
        default=0.01, gt=0, le=1, description="PopArt's step size, per unroll of the task; unrolls are long here."
    )
