"""PQN's parts for an environment."""

from __future__ import annotations

from machina.algorithms.exploration.acting import EPSILON, MAX_Q, EpsilonGreedyPolicy
from machina.algorithms.pqn.config import PQNConfig
from machina.algorithms.pqn.learning import PQNLearner
from machina.buffers.buffer import BufferSizes, Shards
from machina.buffers.queue import UnrollQueue
from machina.errors import UserError
from machina.interfaces import LearningFacts, Ranks
from machina.nets.build import build_q_network
from machina.nets.reading import read
from machina.specs import ArraySpec, EnvSpec


class PQNAlgorithm:
    """Implements ``machina.interfaces.Algorithm``."""

    def __init__(self, config: PQNConfig) -> None:
        self.config = config

    def make_policy(
        self, spec: EnvSpec, device: str, precision: str, *, explores: bool, num_slots: int
    ) -> EpsilonGreedyPolicy:
        """Epsilon-greedy, or greedy where it does not explore."""
        network = build_q_network(spec, self.config.network, seed=0)
        return EpsilonGreedyPolicy(
            self.config, network, spec, device, precision, explores=explores, num_slots=num_slots
        )

    def make_learner(self, spec: EnvSpec, device: str, precision: str, seed: int, ranks: Ranks) -> PQNLearner:
        """One of ``ranks`` that share every batch."""
        return PQNLearner(self.config, spec, device, precision, seed, ranks)

    def make_buffer(self, spec: EnvSpec, sizes: BufferSizes, shards: Shards) -> UnrollQueue:  # noqa: ARG002
        """Every unroll is learned once; with the bound on the policy lag this is a synchronous batch."""
        return UnrollQueue(sizes)

    def buffer_bytes(self, spec: EnvSpec) -> int:  # noqa: ARG002 (a queue holds nothing else)
        """None."""
        return 0

    def policy_outputs(self, spec: EnvSpec) -> dict[str, ArraySpec]:  # noqa: ARG002 (the same for all)
        """The highest value, from which targets are made, and the share of random actions."""
        number = ArraySpec(shape=(), dtype="float32")
        return {MAX_Q: number, EPSILON: number}

    def describe(self, spec: EnvSpec) -> LearningFacts:
        """How the network reads observations, what is done with rewards, and the schedule of epsilon.

        Raises:
            UserError: a game of several agents.
        """
        if spec.seats:
            raise UserError(
                f"environment {spec.name!r}: pqn learns for one agent, this is a game of {len(spec.seats)}; use ppo"
            )
        network = self.config.network
        line = read(spec, network).describe(spec)
        line += "; layer normalization" if network.layer_norm else ""
        line += f"; then an LSTM of {network.lstm_size}" if network.lstm_size else ""
        line += f"; a head for each of {spec.num_tasks} tasks" if network.task_heads and spec.num_tasks > 1 else ""
        rewards = "clipped to [-1, 1]" if self.config.clips_rewards(spec) else "as the environment gives them"
        return LearningFacts(line, rewards, _exploration(self.config))


def _exploration(config: PQNConfig) -> str:
    line = f"a random action with probability {config.epsilon:g}"
    if config.epsilon_final != config.epsilon:
        line += f", falling to {config.epsilon_final:g} over the first {100 * config.exploration_share:g}% of the run"
    return line + ("; less in later slots" if config.epsilon_spread else "")


def build(config: PQNConfig) -> PQNAlgorithm:
    """The algorithm with these options."""
    return PQNAlgorithm(config)
