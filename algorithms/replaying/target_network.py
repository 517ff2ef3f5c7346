"""The learner with a target network: what all learners from a replay have in common."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam, Optimizer, RMSprop

from machina.algorithms.replaying.config import ReplayingConfig
from machina.interfaces import LearnerState, Ranks
from machina.learner.base_learner import BaseLearner
from machina.learner.trained_network import TrainedNetwork
from machina.nets.build import build_value_network
from machina.nets.parameters import load_tensors
from machina.nets.precision import resolve_device
from machina.nets.value_network import ValueNetwork
from machina.specs import EnvSpec
from machina.streams import Stream

TARGET = "target"
"""The group of tensors of the target network in a checkpoint."""


class TargetNetworkLearner(BaseLearner[ValueNetwork]):
    """Keeps a copy of the network from some updates ago, and draws the noise of both.

    Args:
        config: of the algorithm.
        spec: of the environment.
        device: that it learns on.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        seed: of the run.
        ranks: that share every batch.
    """

    def __init__(
        self, config: ReplayingConfig, spec: EnvSpec, device: str, precision: str, seed: int, ranks: Ranks
    ) -> None:
        model = TrainedNetwork(
            spec,
            build_value_network(spec, config.network, seed),
            config.network.observation_filter,
            lambda parameters: make_optimizer(config, parameters),
            None,
            resolve_device(device),
            ranks,
        )
        super().__init__(spec, model, precision)
        self._replaying = config
        self._seed = seed
        self._generator = torch.Generator()
        self.target: ValueNetwork = copy.deepcopy(model.network).requires_grad_(False)

    def _redraw_noise(self) -> None:
        """Once per update, for both networks; the same on every rank, and after the run was resumed."""
        if self._replaying.network.noise == "none":
            return
        sequence = np.random.SeedSequence([self._seed, Stream.NOISE, self.updates])
        self._generator.manual_seed(int(sequence.generate_state(1)[0]))
        self.model.network.redraw(self._generator)
        self.target.redraw(self._generator)

    def _count_update(self) -> None:
        """Count an update, and copy the network into the target network when that is due."""
        self.updates += 1
        if self.updates % self._replaying.target_update_period == 0:
            self._copy_to_target()

    def _copy_to_target(self) -> None:
        with torch.no_grad():
            for theirs, ours in zip(self.target.parameters(), self.model.network.parameters(), strict=True):
                theirs.copy_(ours)

    def state(self) -> LearnerState:
        """Copies of everything that the next update depends on, the target network included."""
        state = super().state()
        target = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.target.named_parameters()}
        return state._replace(tensors={**state.tensors, TARGET: target})

    def load_state(self, state: LearnerState) -> None:
        """Continue from ``state`` bit for bit.

        Raises:
            UserError: the state belongs to another network.
        """
        tensors = dict(state.tensors)
        target = tensors.pop(TARGET, {})
        super().load_state(state._replace(tensors=tensors))
        load_tensors(self.target, target)

    def load_initial(self, tensors: Mapping[str, Tensor], with_value: bool) -> None:
        """Start from another run's model, also in the target network."""
        super().load_initial(tensors, with_value)
        self._copy_to_target()


def make_optimizer(config: ReplayingConfig, parameters: Iterable[Tensor]) -> Optimizer:
    """The optimizer asked for."""
    if config.optimizer == "adam":
        return Adam(parameters, lr=config.learning_rate, eps=config.adam_epsilon, fused=True)
    return RMSprop(
        parameters, lr=config.learning_rate, alpha=config.rmsprop_decay, eps=config.rmsprop_epsilon, centered=True
    )
