"""The options of every algorithm that learns from a replay. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from machina.algorithms.exploration.config import ExplorationConfig
from machina.algorithms.replaying.shares import ShareText, parsed_share
from machina.algorithms.reward_config import RewardConfig
from machina.buffers.replay import Share
from machina.buffers.replay_shard import DEMONSTRATIONS, EPISODES
from machina.defaults import with_default
from machina.errors import UserError
from machina.nets.config import ValueNetworkConfig

SAVED_BYTES = 4 * 2**30
"""Largest replay that checkpoints hold unless they are told to: more takes minutes to write."""

PriorityKind = Literal["none", "proportional", "rank", "greedy"]


class ReplayingConfig(RewardConfig, ExplorationConfig):
    """Action values, a replay, a target network. Each algorithm says what it has by default."""

    unroll_length: int = Field(
        default=4,
        ge=1,
        le=1_000_000,
        description="T: env steps that an actor plays with one version of the parameters.",
    )
    batch_size: int = Field(default=32, ge=1, le=1_000_000, description="Items per learner update.")
    replay_capacity: int = Field(
        default=1_000_000, ge=1, le=10**10, description="Env steps that the replay holds, of all environments together."
    )
    replay_ratio: float = Field(
        default=8.0,
        gt=0,
        le=10_000,
        description="Samples learned for each env step collected after learning_starts; 8 is a batch of 32 every 4 env "
        "steps. The faster side waits.",
    )
    learning_starts: int = Field(
        default=50_000, ge=0, le=10**10, description="Env steps that are collected before the first update."
    )
    replay_shards: int = Field(
        default=1, ge=1, le=1024, description="Parts of the replay; with place ray each is a process."
    )
    save_replay: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Checkpoints hold the replay, in files that are not written again as long as they don't change; "
        "else a resumed run starts with an empty one. auto: up to 4 GiB.",
    )
    compress_frames: bool = Field(
        default=False, description="Image frames are kept in LZ4 blocks: a tenth of the memory, some more time."
    )
    gamma: float = Field(default=0.99, gt=0, le=1, description="Discount per env step.")
    n_step: int = Field(default=1, ge=1, le=1000, description="Env steps that a target looks ahead.")
    double_q: bool = Field(
        default=False, description="The online network picks the action that the target network values (1509.06461)."
    )
    target_update_period: int = Field(
        default=2500, ge=1, le=10**9, description="Updates after which the target network is copied."
    )
    loss: Literal["huber", "squared"] = Field(
        default="huber", description="Of errors in values; with atoms it is the cross entropy."
    )
    priority: PriorityKind = Field(
        default="none",
        description="How items are drawn (arXiv 1511.05952): all alike; in proportion to their error; by the rank of "
        "their error; the largest errors always.",
    )
    priority_exponent: float = Field(
        default=0.6, ge=0, le=1, description="alpha: 0 draws all alike, 1 fully by priority."
    )
    priority_epsilon: float = Field(default=1e-6, ge=0, le=1e6, description="Added to every error's size.")
    importance_sampling_exponent: float = Field(
        default=0.4, ge=0, le=1, description="beta at the start: how much of the drawing's bias the loss corrects."
    )
    importance_sampling_exponent_final: float = Field(
        default=1.0, ge=0, le=1, description="beta at the end of the run, reached linearly."
    )
    initial_priority: Literal["largest", "actor"] = Field(
        default="largest",
        description="Of a new item: the largest at present, or the error that the actor's own values give (Ape-X).",
    )
    demos: Path | None = Field(
        default=None, description="Folder of recorded episodes (machina record) that batches are mixed with."
    )
    demo_ratio: ShareText | None = Field(
        default=None,
        description="Probability of each item of a batch to be a demonstration, 1/256 by default (R2D3), or a "
        "schedule: '1.0 -> 1/512 over 50000' env steps, by equal factors.",
    )
    demo_priority: PriorityKind | None = Field(
        default=None, description="How demonstrations are drawn; None: as the agent's own items."
    )
    pretraining_updates: int = Field(
        default=0,
        ge=0,
        le=10**9,
        description="Updates from demonstrations alone before anything is collected (750,000 in DQfD, 1704.03732).",
    )
    episode_memory: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="Best episodes so far, by their return, that are kept and mixed into batches; 0: none.",
    )
    episode_memory_steps: int = Field(
        default=2_000, ge=1, le=10**7, description="Env steps of the longest episode that is kept so."
    )
    episode_ratio: ShareText = Field(
        default="1/8", description="As demo_ratio, of the best episodes among the other items."
    )
    episode_priority: PriorityKind | None = Field(
        default=None, description="How items of the best episodes are drawn; None: as the agent's other items."
    )
    optimizer: Literal["adam", "rmsprop"] = Field(default="adam", description="rmsprop is centred, as for DQN.")
    learning_rate: float = Field(default=6.25e-5, gt=0, le=100, description="Step size.")
    adam_epsilon: float = Field(default=1.5e-4, gt=0, le=1, description="Added to Adam's denominator.")
    rmsprop_decay: float = Field(default=0.95, ge=0, lt=1, description="Of RMSProp's means.")
    rmsprop_epsilon: float = Field(
        default=0.01 / 32**2, gt=0, le=1, description="Added to the gradients' variance, under RMSProp's root."
    )
    max_grad_norm: float = Field(
        default=10.0, gt=0, le=1e12, description="The gradient's norm over all weights is clipped to this."
    )
    reward_clip: Literal["auto", "clip", "none"] = with_default(RewardConfig, "reward_clip", "auto")
    network: ValueNetworkConfig = ValueNetworkConfig()

    @property
    def shares(self) -> tuple[Share, ...]:
        """Of the memories besides the agent's."""
        shares = []
        if self.demos is not None:
            shares.append(parsed_share(self.demo_ratio or "1/256", DEMONSTRATIONS))
        if self.episode_memory:
            shares.append(parsed_share(self.episode_ratio, EPISODES))
        return tuple(shares)

    @property
    def learns_again(self) -> bool:
        """Always."""
        return True

    def saves_replay(self, num_bytes: int) -> bool:
        """As asked for; auto goes by the size."""
        return self.save_replay == "always" or (self.save_replay == "auto" and num_bytes <= SAVED_BYTES)

    @property
    def passes(self) -> int:
        """How often each env step is learned, 1 at least."""
        return max(1, round(self.replay_ratio))

    @property
    def item_length(self) -> int:
        """The window of a target."""
        return self.n_step

    @property
    def item_steps(self) -> int:
        """Env steps of an item that are learned."""
        return 1

    @property
    def whole_episodes(self) -> bool:
        """Whether a step can be drawn only when its episode has ended."""
        return False

    def env_steps_per_update(self, batch_size: int) -> int:
        """By the replay ratio."""
        return max(1, round(batch_size * self.item_steps / self.replay_ratio))

    def check_length(self, total_env_steps: int, batch_size: int) -> None:
        """Refuse a run that ends before the first update.

        Raises:
            UserError: with the numbers.
        """
        first = self.learning_starts + self.env_steps_per_update(batch_size)
        if first > total_env_steps:
            raise UserError(
                f"learning_starts={self.learning_starts}: the whole run is {total_env_steps:,} env steps, and the "
                f"first update comes after {first:,}; use fewer --learning-starts or more --total-frames"
            )

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.batch_size > self.replay_capacity:
            raise ValueError(
                f"batch_size={self.batch_size} is more than the replay_capacity of {self.replay_capacity} env steps"
            )
        if self.learning_starts > self.replay_capacity:
            raise ValueError(
                f"learning_starts={self.learning_starts} is more than the replay_capacity of {self.replay_capacity} "
                "env steps"
            )
        if self.demos is None and (self.demo_ratio is not None or self.pretraining_updates):
            option = "demo_ratio" if self.demo_ratio is not None else "pretraining_updates"
            raise ValueError(f"{option}={getattr(self, option)} needs demonstrations: --demos FOLDER")
        if self.replay_shards > 1 and self.priority in ("rank", "greedy"):
            raise ValueError(
                f"replay_shards={self.replay_shards}: priority={self.priority} ranks the items of one shard; use 1 "
                "shard or priority=proportional"
            )
        return self


class TransitionConfig(ReplayingConfig):
    """Items are transitions of n steps; demonstrations may have a loss of their own."""

    batch_mode: Literal["truncate_episodes", "complete_episodes"] = Field(
        default="truncate_episodes",
        description="complete_episodes: a step can be learned only when its episode has ended; truncate_episodes: as "
        "soon as the n steps after it are there.",
    )
    margin_cost: float = Field(
        default=0.0,
        ge=0,
        le=1e6,
        description="Weight of the loss that puts a demonstrated action above the others (1 in DQfD); 0: none.",
    )
    margin: float = Field(default=0.8, gt=0, le=1e6, description="By how much, in units of the values (DQfD).")

    @property
    def whole_episodes(self) -> bool:
        """As asked for."""
        return self.batch_mode == "complete_episodes"

    @model_validator(mode="after")
    def _fits_transitions(self) -> Self:
        if self.network.lstm_size:
            raise ValueError(
                f"lstm_size={self.network.lstm_size}: a transition has no core state to begin with; use r2d2, or "
                "--lstm-size 0"
            )
        if self.margin_cost and self.demos is None:
            raise ValueError(f"margin_cost={self.margin_cost:g} needs demonstrations: --demos FOLDER")
        return self
