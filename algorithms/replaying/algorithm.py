"""The parts of an algorithm with a replay for an environment."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from machina.algorithms.exploration.acting import EPSILON, MAX_Q, TAKEN_Q, EpsilonGreedyPolicy
from machina.algorithms.replaying.config import ReplayingConfig, TransitionConfig
from machina.algorithms.replaying.initial_priorities import ActorErrors
from machina.algorithms.replaying.learning import ReplayingLearner
from machina.algorithms.replaying.memory import layout_of, make_replay, replay_bytes
from machina.buffers.buffer import BufferSizes, Shards
from machina.buffers.layout import Layout
from machina.buffers.replay import Replay
from machina.buffers.replay_shard import InitialErrors
from machina.demonstrations import DemonstrationSet, check_suits, load_set
from machina.errors import UserError
from machina.interfaces import Learner, LearningFacts, Ranks
from machina.nets.build import build_value_network
from machina.nets.reading import read
from machina.specs import ArraySpec, EnvSpec

C = TypeVar("C", bound=ReplayingConfig)


class ReplayingAlgorithm(ABC, Generic[C]):
    """Implements ``machina.interfaces.Algorithm`` but for what is learned at a time, which a subclass says."""

    def __init__(self, config: C, name: str) -> None:
        self.config = config
        self._name = name

    def make_policy(
        self, spec: EnvSpec, device: str, precision: str, *, explores: bool, num_slots: int
    ) -> EpsilonGreedyPolicy:
        """Epsilon-greedy, with noise where layers are noisy; greedy and quiet where it does not explore."""
        return EpsilonGreedyPolicy(
            self.config,
            build_value_network(spec, self.config.network, seed=0),
            spec,
            device,
            precision,
            explores=explores,
            num_slots=num_slots,
            leaves_taken_q=self._actors_give_priorities,
        )

    @property
    def _actors_give_priorities(self) -> bool:
        return self.config.initial_priority == "actor" and self.config.priority != "none"

    @abstractmethod
    def make_learner(self, spec: EnvSpec, device: str, precision: str, seed: int, ranks: Ranks) -> Learner:
        """One of ``ranks`` that share every batch."""

    def policy_outputs(self, spec: EnvSpec) -> dict[str, ArraySpec]:  # noqa: ARG002 (the same for all)
        """The share of random actions, and the values from which actors' priorities are made."""
        number = ArraySpec(shape=(), dtype="float32")
        names = (MAX_Q, EPSILON, TAKEN_Q) if self._actors_give_priorities else (MAX_Q, EPSILON)
        return dict.fromkeys(names, number)

    def make_buffer(self, spec: EnvSpec, sizes: BufferSizes, shards: Shards) -> Replay:
        """The replay.

        Raises:
            UserError: it is too small for so many environments.
        """
        errors = self._errors(spec) if self._actors_give_priorities else None
        return make_replay(self.config, self._layout(spec), self._demonstrations, errors, sizes, shards)

    def buffer_bytes(self, spec: EnvSpec) -> int:
        """Memory of the replay when it is full.

        Raises:
            UserError: its demonstrations can't be read.
        """
        return replay_bytes(self.config, self._layout(spec), self._demonstrations)

    @functools.cached_property
    def _demonstrations(self) -> DemonstrationSet | None:
        """Read and checked once: every byte takes a while where they are many."""
        return None if self.config.demos is None else load_set(self.config.demos)

    @abstractmethod
    def _errors(self, spec: EnvSpec) -> InitialErrors:
        """What makes priorities of new items from what actors computed."""

    def _layout(self, spec: EnvSpec) -> Layout:
        stored = self.policy_outputs(spec) if self._actors_give_priorities else {}
        return layout_of(self.config, spec, stored)

    def describe(self, spec: EnvSpec) -> LearningFacts:
        """How the network reads observations, what is done with rewards, how actors explore.

        Raises:
            UserError: a game of several agents, or actions that are not one choice.
        """
        if spec.seats:
            raise UserError(
                f"environment {spec.name!r}: {self._name} learns for one agent, this is a game of {len(spec.seats)}; "
                "use ppo"
            )
        if spec.action.kind != "discrete":
            raise UserError(
                f"environment {spec.name!r}: {self._name} needs one choice among actions, these are "
                f"{spec.action.kind}; use ppo, which learns numbers, or choices of each with --action-bins"
            )
        network = self.config.network
        line = read(spec, network).describe(spec)
        line += f"; then an LSTM of {network.lstm_size}" if network.lstm_size else ""
        line += "; dueling" if network.dueling else ""
        line += f"; {network.atoms} atoms" if network.atoms > 1 else ""
        line += "; noisy" if network.noise != "none" else ""
        line += f"; a head for each of {spec.num_tasks} tasks" if network.task_heads and spec.num_tasks > 1 else ""
        rewards = "clipped to [-1, 1]" if self.config.clips_rewards(spec) else "as the environment gives them"
        return LearningFacts(line, rewards, exploration_line(self.config), self._memory_line(spec))

    def _memory_line(self, spec: EnvSpec) -> str:
        config = self.config
        size = self.buffer_bytes(spec) / 2**30
        line = f"{config.replay_capacity:,} env steps, {size:.1f} GiB when full"
        line += " or less, as its frames can be compressed" if self._layout(spec).compressed else ""
        found = self._demonstrations
        if found is not None:
            check_suits(found, spec)
            line += (
                f"; {len(found.episodes)} demonstrations of '{config.demos}', {config.demo_ratio or '1/256'} of a batch"
            )
            line += "".join(f"; {refusal.file} {refusal.reason}" for refusal in found.refusals)
        if config.episode_memory:
            line += f"; the best {config.episode_memory} episodes, {config.episode_ratio} of a batch"
        return line + f"; {config.replay_ratio:g} samples learned per env step, from {config.learning_starts:,} on"


def exploration_line(config: ReplayingConfig) -> str:
    """One line for the user."""
    line = f"a random action with probability {config.epsilon:g}"
    if config.epsilon_final != config.epsilon:
        line += f", falling to {config.epsilon_final:g} over the first {100 * config.exploration_share:g}% of the run"
    if config.network.noise != "none":
        line += "; noisy layers"
    return line + ("; less in later slots" if config.epsilon_spread else "")


class TransitionAlgorithm(ReplayingAlgorithm[TransitionConfig]):
    """Items are transitions of n steps."""

    def make_learner(self, spec: EnvSpec, device: str, precision: str, seed: int, ranks: Ranks) -> Learner:
        """One of ``ranks`` that share every batch."""
        return ReplayingLearner(self.config, spec, device, precision, seed, ranks)

    def _errors(self, spec: EnvSpec) -> InitialErrors:
        return ActorErrors(self.config.gamma, self.config.clips_rewards(spec)).of
