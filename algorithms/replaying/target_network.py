"""The learner with a target network: what all learners from a replay have in common."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from machina.algorithms.replaying.config import ReplayingConfig
from machina.interfaces import LearnerState, Ranks
from machina.learner.base_learner import BaseLearner
from machina.learner.optimizers import CentredRMSProp
from machina.learner.trained_network import TrainedNetwork
from machina.nets.build import build_value_network
from machina.nets.parameters import load_tensors
from machina.nets.precision import resolve_device
from machina.nets.value_network import ValueNetwork
from machina.specs import EnvSpec
from machina.streams import Stream
from machina.types import Learned

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
        self.target.cast_torso(self.precision.dtype)

    def _redraw_noise(self) -> None:
        """Once per update, for both networks; the same on every rank, and after the run was resumed."""
        if self._replaying.network.noise == "none":
            return
        sequence = np.random.SeedSequence([self._seed, Stream.NOISE, self.updates])
        self._generator.manual_seed(int(sequence.generate_state(1)[0]))
        self.model.network.redraw(self._generator)
        self.target.redraw(self._generator)

    def _learn(self, sums: Tensor, filter_sums: Tensor, priorities: Sequence[Tensor]) -> tuple[list[float], Learned]:
        """Step with the gradients of the whole batch, count the update, and copy the target network when it is due.

        When something is not finite, the parameters stay as they are.

        Args:
            sums: float64, of this rank's items.
            filter_sums: the observation filter's.
            priorities: of this rank's items, in parts.

        Returns:
            The sums of all ranks, and what the update came to.

        Raises:
            RanksBrokenError: another rank is gone; everything but the gradients is as before.
        """
        config, model = self._replaying, self.model
        model.add_up_over_ranks([sums, filter_sums])
        grad_norm = model.grad_norm()
        *numbers, norm = torch.cat([sums, grad_norm[None]]).tolist()
        finite = all(math.isfinite(number) for number in (*numbers, norm))
        if finite:
            model.step(config.learning_rate, config.max_grad_norm, norm)
            model.update_filter(filter_sums)
        self.updates += 1
        if self.updates % config.target_update_period == 0:
            self._copy_to_target()
        found = torch.cat(list(priorities)) if priorities else torch.zeros(0)
        metrics = {"learner/grad_norm": norm}
        return numbers, Learned(metrics, not finite, priorities=found.float().cpu().numpy() if finite else None)

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
    return CentredRMSProp(parameters, config.learning_rate, config.rmsprop_decay, config.rmsprop_epsilon)
