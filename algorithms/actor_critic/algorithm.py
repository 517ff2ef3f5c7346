"""The parts of an actor-critic algorithm for an environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from machina.algorithms.actor_critic.config import ActorCriticConfig
from machina.buffers.buffer import BufferSizes, Shards
from machina.buffers.queue import UnrollQueue
from machina.interfaces import Learner, LearningFacts, Ranks
from machina.learner.popart import PopArt
from machina.learner.trained_network import TrainedNetwork
from machina.nets.build import build_network
from machina.nets.network import PolicyNetwork
from machina.nets.policy import SampledPolicy
from machina.nets.reading import read
from machina.specs import ArraySpec, EnvSpec
from machina.types import BEHAVIOUR_LOGITS

LearnerMaker = Callable[[EnvSpec, str, str, int, Ranks], Learner]
"""From spec, device, precision, seed and ranks."""


class ActorCriticAlgorithm:
    """Implements ``machina.interfaces.Algorithm``: a sampled policy, and the learner of the algorithm."""

    def __init__(self, config: ActorCriticConfig, make_learner: LearnerMaker) -> None:
        self.config = config
        self._make_learner = make_learner

    def make_policy(
        self,
        spec: EnvSpec,
        device: str,
        precision: str,
        *,
        explores: bool,  # noqa: ARG002 (what is learned is a distribution: evaluation samples from it, too)
        num_slots: int,  # noqa: ARG002 (all slots act alike)
    ) -> SampledPolicy:
        """A policy that samples; it acts sensibly once parameters are loaded."""
        return SampledPolicy(self.config.network, spec, device, precision)

    def make_learner(self, spec: EnvSpec, device: str, precision: str, seed: int, ranks: Ranks) -> Learner:
        """One of ``ranks`` that share every batch."""
        return self._make_learner(spec, device, precision, seed, ranks)

    def make_buffer(self, spec: EnvSpec, sizes: BufferSizes, shards: Shards) -> UnrollQueue:  # noqa: ARG002
        """Every unroll is learned once, in the order of arrival."""
        return UnrollQueue(sizes)

    def buffer_bytes(self, spec: EnvSpec) -> int:  # noqa: ARG002 (a queue holds nothing else)
        """None."""
        return 0

    def policy_outputs(self, spec: EnvSpec) -> dict[str, ArraySpec]:
        """The parameters of the distribution that actions were sampled from."""
        return {BEHAVIOUR_LOGITS: ArraySpec(shape=(spec.action.num_parameters,), dtype="float32")}

    def describe(self, spec: EnvSpec) -> LearningFacts:
        """How the network reads observations, and what is done with rewards."""
        network = self.config.network
        if network.network_name is not None:
            network_line = f"{network.network_name} (your own)"
        else:
            network_line = read(spec, network).describe(spec)
            if network.lstm_size:
                network_line += f"; then an LSTM of {network.lstm_size}"
            if network.separate_roles:
                network_line += f"; one for each of {spec.num_tasks}"
        rewards = "clipped to [-1, 1]" if self.config.clips_rewards(spec) else "as the environment gives them"
        if self.config.popart:
            rewards += "; value targets normalized by PopArt"
        return LearningFacts(network_line, rewards)


def trained_network(
    config: ActorCriticConfig,
    spec: EnvSpec,
    make_optimizer: Callable[[Iterable[Tensor]], Optimizer],
    device: torch.device,
    seed: int,
    ranks: Ranks,
) -> TrainedNetwork[PolicyNetwork]:
    """Network and optimizer, with PopArt's statistics if they are asked for; see ``TrainedNetwork``."""
    popart: PopArt | None = None
    if config.popart:
        popart = PopArt(spec.num_tasks, config.popart_beta, config.popart_sigma_min, config.popart_sigma_max, device)
    network = build_network(spec, config.network, seed)
    return TrainedNetwork(spec, network, config.network.observation_filter, make_optimizer, popart, device, ranks)
