"""PQN's learner: one update, of several epochs, from a batch of unrolls (arXiv 2407.04811, algorithm 1)."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from machina.algorithms.epochs.learning import MinibatchLearner
from machina.algorithms.exploration.acting import EPSILON, MAX_Q
from machina.algorithms.pqn.config import PQNConfig
from machina.interfaces import Ranks
from machina.learner.base_learner import explained_variance, linear
from machina.learner.optimizers import FusedRAdam
from machina.learner.trained_network import TrainedNetwork
from machina.losses.alignment import Steps, aligned
from machina.losses.q_lambda import q_lambda_returns
from machina.nets.build import build_q_network
from machina.nets.network import NetworkInput
from machina.nets.precision import resolve_device
from machina.nets.q_network import QNetwork, QOutput
from machina.nets.unroll_tensors import network_input, to_device
from machina.specs import EnvSpec
from machina.types import Array, Learned, Unroll


class BatchSums(NamedTuple):
    """Sums over the counted steps of a batch, before it is learned from."""

    counted: float
    targets: float
    squared_targets: float
    errors: float
    squared_errors: float
    epsilon: float


class Samples(NamedTuple):
    """What the minibatches are taken from; ``[N]`` each, in the order ``t * B + slot``."""

    actions: Tensor
    targets: Tensor
    weights: Tensor
    """0 where the step does not count, else the weight of its slot."""


class PQNLearner(MinibatchLearner[QNetwork]):
    """Squared errors from Q(lambda) targets; see ``MinibatchLearner``."""

    def __init__(self, config: PQNConfig, spec: EnvSpec, device: str, precision: str, seed: int, ranks: Ranks) -> None:
        model = TrainedNetwork(
            spec,
            build_q_network(spec, config.network, seed),
            config.network.observation_filter,
            lambda parameters: FusedRAdam(parameters, config.learning_rate),
            None,
            resolve_device(device),
            ranks,
        )
        super().__init__(spec, model, precision, config, seed)
        self.config = config

    def update(self, batch: Unroll[Array], done: float) -> Learned:
        """One update: the targets of the whole batch first, then epochs of minibatches.

        When something is not finite, no further step is made, and the update counts as skipped.

        Args:
            batch: of several ranks, this one's share of the slots, possibly none.
            done: fraction of the run that is done.

        Raises:
            RanksBrokenError: another rank is gone; part of the update may have been made.
        """
        config, model = self.config, self.model
        unroll = to_device(batch, self.device)
        steps = aligned(unroll)
        inputs = network_input(unroll, steps.first, steps.previous_actions, self.spec)
        samples, sums = self._samples(unroll, steps, inputs)
        filter_sums = model.filter_sums(inputs, steps.mask)
        if model.ranks.size > 1:
            model.ranks.add_up([sums, filter_sums])
        totals = BatchSums(*sums.tolist())
        rate = linear(config.learning_rate, config.learning_rate_final, done)
        metrics = _batch_metrics(totals) | {"learner/learning_rate": rate}
        finite = all(math.isfinite(number) for number in totals)
        if finite:
            finite = self._learn(samples, inputs, unroll.core_state, rate, metrics)
            model.update_filter(filter_sums)
        self.updates += 1
        return Learned(metrics, skipped=not finite, passes=config.epochs if finite else 0)

    @torch.no_grad()
    def _samples(self, unroll: Unroll[Tensor], steps: Steps, inputs: NetworkInput) -> tuple[Samples, Tensor]:
        """What is learned, and the fields of ``BatchSums`` as a float64 vector."""
        config = self.config
        max_q = self._max_q(unroll, inputs)
        rewards = steps.rewards.clamp(-1, 1) if config.clips_rewards(self.spec) else steps.rewards
        targets = q_lambda_returns(
            rewards, steps.continues, max_q, steps.mask, gamma=config.gamma, lambda_=config.q_lambda
        )
        weights = steps.mask * unroll.weight

        def total(per_step: Tensor) -> Tensor:
            return torch.where(steps.mask, per_step, 0.0).double().sum()

        errors = targets - max_q[:-1]
        sums = [steps.mask.sum().double(), total(targets), total(targets.square()), total(errors)]
        sums += [total(errors.square()), total(steps.policy_outputs[EPSILON])]
        samples = Samples(*(each.flatten() for each in (steps.actions, targets, weights)))
        return samples, torch.stack(sums)

    def _max_q(self, unroll: Unroll[Tensor], inputs: NetworkInput) -> Tensor:
        """``[T + 1, B]``: the highest values at all entries.

        A feed-forward policy left those of the first T; a recurrent one must be run through them to reach the last.
        """
        first = 0 if unroll.core_state else len(inputs.reward) - 1
        asked = NetworkInput(
            {key: each[first:] for key, each in inputs.observation.items()}, *(each[first:] for each in inputs[1:])
        )
        max_q = unroll.policy_outputs[MAX_Q].clone()
        for slots, output in self._outputs(asked, unroll.core_state):
            max_q[first:, slots] = output.q_values.max(dim=-1).values
        return max_q

    def _learn(
        self,
        samples: Samples,
        inputs: NetworkInput,
        core_state: tuple[Tensor, ...],
        rate: float,
        metrics: dict[str, float],
    ) -> bool:
        """The optimizer's steps; fills in ``metrics`` and returns whether all was finite."""
        made = list(
            self._optimizer_steps(
                inputs,
                core_state,
                (samples.weights > 0).double()[None],
                rate,
                self.config.max_grad_norm,
                functools.partial(self._loss, samples),
                num_shown=2,
            )
        )
        sums = [step.sums for step in made if step.sums is not None]
        if len(sums) < len(made):
            return False
        losses, q_values, norms = map(sum, zip(*sums, strict=True))
        total = max(1.0, sum(step.counts[0] for step in made))
        metrics |= {
            "learner/q_loss": losses / total,
            "learner/q_value": q_values / total,
            "learner/grad_norm": norms / len(made),
        }
        return True

    def _loss(self, samples: Samples, output: QOutput, steps: Tensor, counts: list[float]) -> tuple[Tensor, Tensor]:
        """Half the squared error; see ``machina.algorithms.epochs.learning.Loss``."""
        actions, targets, weights = (each[steps] for each in samples)
        own = output.q_values.flatten(0, 1).gather(-1, actions.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        loss = (0.5 * (own - targets).square() * weights).sum()
        q_values = torch.where(weights > 0, own.detach(), 0.0).sum()
        return loss / counts[0], torch.stack([loss.detach(), q_values]).double()


def _batch_metrics(sums: BatchSums) -> dict[str, float]:
    """What is known of a batch before it is learned from."""
    steps = max(sums.counted, 1.0)
    targets, errors = (sums.targets, sums.squared_targets), (sums.errors, sums.squared_errors)
    return {
        "learner/explained_variance": explained_variance(targets, errors, steps),
        "learner/target": sums.targets / steps,
        "actor/epsilon": sums.epsilon / steps,
    }
