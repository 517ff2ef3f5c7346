"""PQN's learner: one update, of several epochs, from a batch of unrolls (arXiv 2407.04811, algorithm 1)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import RAdam

from machina.algorithms.pqn.acting import EPSILON, MAX_Q
from machina.algorithms.pqn.config import PQNConfig
from machina.interfaces import Ranks
from machina.learner.base_learner import BaseLearner, linear
from machina.learner.minibatches import chunk_items, flat_steps, minibatches, share_of
from machina.learner.trained_network import TrainedNetwork
from machina.losses.alignment import Steps, aligned
from machina.losses.q_lambda import q_lambda_returns
from machina.nets.build import build_q_network
from machina.nets.network import NetworkInput
from machina.nets.precision import resolve_device
from machina.nets.q_network import QNetwork
from machina.nets.unroll_tensors import columns_of, network_input, steps_of, to_device
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


class PQNLearner(BaseLearner[QNetwork]):
    """Gradients are means over the steps of a minibatch: sums over this rank's, divided by the count of all ranks."""

    def __init__(self, config: PQNConfig, spec: EnvSpec, device: str, precision: str, seed: int, ranks: Ranks) -> None:
        model = TrainedNetwork(
            spec,
            build_q_network(spec, config.network, seed),
            config.network.observation_filter,
            lambda parameters: RAdam(parameters, lr=config.learning_rate),
            None,
            resolve_device(device),
            ranks,
        )
        super().__init__(spec, model, precision)
        self.config = config
        self.seed = seed

    def update(self, batch: Unroll[Array], done: float) -> Learned:
        """One update: the targets of the whole batch first, then epochs of minibatches.

        When something is not finite, no further step is made, and the update counts as skipped.

        Args:
            batch: of several ranks, this one's share of the slots, possibly none.
            done: share of the run that lies behind.

        Raises:
            RanksBrokenError: another rank is gone; part of the update may have been made.
        """
        config, model = self.config, self.model
        unroll = to_device(batch, self.device)
        steps = aligned(unroll)
        inputs = network_input(unroll, steps.first, steps.previous_actions, self.spec)
        share = share_of(unroll.reward.shape[1], model.ranks, self.device)
        samples, sums = self._samples(unroll, steps, inputs)
        filter_sums = model.filter_sums(inputs, steps.mask)
        if model.ranks.size > 1:
            model.ranks.add_up([sums, filter_sums])
        totals = BatchSums(*sums.tolist())
        rate = linear(config.learning_rate, config.learning_rate_final, done)
        metrics = _batch_metrics(totals) | {"learner/learning_rate": rate}
        finite = all(math.isfinite(number) for number in totals)
        if finite:
            parts = minibatches(
                share,
                len(steps.mask),
                config.epochs,
                config.minibatches,
                bool(unroll.core_state),
                self.seed,
                self.updates,
            )
            finite = self._learn(samples, inputs, unroll.core_state, list(parts), rate, metrics)
            model.update_filter(filter_sums)
        self.updates += 1
        return Learned(metrics, skipped=not finite, passes=config.epochs)

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
        entries, num_slots = inputs.reward.shape
        first = 0 if unroll.core_state else entries - 1
        asked = NetworkInput(
            {key: each[first:] for key, each in inputs.observation.items()}, *(each[first:] for each in inputs[1:])
        )
        max_q = unroll.policy_outputs[MAX_Q].clone()
        for slots in torch.split(torch.arange(num_slots, device=self.device), self._chunk(entries - first)):
            if len(slots):  # else a rank without a share of this batch
                core_state = tuple(each[slots] for each in unroll.core_state)
                q_values = self._forward(columns_of(asked, slots, entries - first), core_state)
                max_q[first:, slots] = q_values.max(dim=-1).values
        return max_q

    def _learn(
        self,
        samples: Samples,
        inputs: NetworkInput,
        core_state: tuple[Tensor, ...],
        parts: list[Tensor],
        rate: float,
        metrics: dict[str, float],
    ) -> bool:
        """The optimiser's steps; fills in ``metrics`` and returns whether all was finite."""
        num_slots = inputs.reward.shape[1]
        items = [part.to(self.device) for part in parts]
        flat = [flat_steps(each, num_slots, len(samples.actions)) if core_state else each for each in items]
        counts = torch.stack([(samples.weights[steps] > 0).sum().double() for steps in flat])
        if self.model.ranks.size > 1:
            self.model.ranks.add_up([counts])
        losses = q_values = norms = 0.0
        for index, count in enumerate(counts.tolist()):
            sums = self._step(samples, inputs, core_state, items[index], max(count, 1.0), rate, learns=count > 0)
            if sums is None:
                return False
            loss, q_value, norm = sums
            losses, q_values, norms = losses + loss, q_values + q_value, norms + norm
        total = max(1.0, counts.sum().item())
        metrics |= {
            "learner/q_loss": losses / total,
            "learner/q_value": q_values / total,
            "learner/grad_norm": norms / len(parts),
        }
        return True

    def _step(
        self,
        samples: Samples,
        inputs: NetworkInput,
        core_state: tuple[Tensor, ...],
        items: Tensor,
        count: float,
        rate: float,
        *,
        learns: bool,
    ) -> tuple[float, float, float] | None:
        """One step of the optimiser: sums of losses and values, and the gradient's norm; None if not finite."""
        model = self.model
        model.zero_grad()
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        for chunk in torch.split(items, self._chunk(len(inputs.reward) - 1 if core_state else 1)):
            if len(chunk):
                loss, shown = self._loss(samples, inputs, core_state, chunk)
                (loss / count).backward()  # type: ignore[no-untyped-call]
                sums += shown
        model.add_up_over_ranks([sums])
        grad_norm = model.grad_norm()
        loss_sum, q_sum, norm = torch.cat([sums, grad_norm.to(sums)[None]]).tolist()
        if not all(math.isfinite(number) for number in (loss_sum, q_sum, norm)):
            return None
        if learns:
            model.step(rate, self.config.max_grad_norm, grad_norm)
        return loss_sum, q_sum, norm

    def _loss(
        self, samples: Samples, inputs: NetworkInput, core_state: tuple[Tensor, ...], items: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Half the squared error, summed over some items, and ``[2]`` sums that are shown."""
        steps = items
        if core_state:
            entries, num_slots = inputs.reward.shape
            columns = columns_of(inputs, items, entries - 1)
            q_values = self._forward(columns, tuple(each[items] for each in core_state))
            steps = flat_steps(items, num_slots, len(samples.actions))
        else:
            q_values = self._forward(steps_of(inputs, items), ())
        actions, targets, weights = (each[steps] for each in samples)
        own = q_values.flatten(0, 1).gather(-1, actions.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        loss = (0.5 * (own - targets).square() * weights).sum()
        counted = weights > 0
        return loss, torch.stack([loss.detach(), torch.where(counted, own.detach(), 0.0).sum()]).double()

    def _forward(self, inputs: NetworkInput, core_state: tuple[Tensor, ...]) -> Tensor:
        """``[T, B, A]``."""
        with self.precision.autocast(self.device):
            return self.model.network(inputs, core_state).q_values

    def _chunk(self, entries: int) -> int:
        return chunk_items(self.device, self.spec.observation_bytes, entries)


def _batch_metrics(sums: BatchSums) -> dict[str, float]:
    """What is known of a batch before it is learned from."""
    steps = max(sums.counted, 1.0)
    variance = sums.squared_targets / steps - (sums.targets / steps) ** 2
    error_variance = sums.squared_errors / steps - (sums.errors / steps) ** 2
    return {
        "learner/explained_variance": 1 - error_variance / variance if variance > 1e-12 else 0.0,
        "learner/target": sums.targets / steps,
        "actor/epsilon": sums.epsilon / steps,
    }
