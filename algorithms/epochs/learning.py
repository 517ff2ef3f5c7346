"""The learner that goes through every batch in epochs of minibatches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from machina.algorithms.epochs.config import MinibatchConfig
from machina.learner.base_learner import BaseLearner
from machina.learner.minibatches import chunk_items, flat_steps, minibatches, share_of
from machina.learner.trained_network import TrainedNetwork
from machina.nets.network import Network, NetworkInput
from machina.nets.unroll_tensors import columns_of, steps_of
from machina.specs import EnvSpec

N = TypeVar("N", bound=Network[Any])

Loss = Callable[[Any, Tensor, list[float]], tuple[Tensor, Tensor]]
"""From the network's output for some steps, ``[n]`` their indices in the order ``t * B + slot``, and the counts of the
whole minibatch, 1 at least: the loss, divided by these, and ``[k]`` float64 sums that are shown.
"""


class OptimizerStep(NamedTuple):
    """What one step of the optimizer came to."""

    sums: list[float] | None
    """``[k + 1]``: the sums that the loss shows, over all ranks, and the gradient's norm; None: one was not finite, and
    the step was not made.
    """
    counts: list[float]
    """Steps of the minibatch by each way of counting."""


class MinibatchLearner(BaseLearner[N]):
    """Gradients are means over the steps of a minibatch: sums over this rank's steps, divided by the number of steps on
    all ranks, so that what the ranks add up is the gradient of the whole minibatch.

    Args:
        spec: of the environment.
        model: the network with its optimizer and statistics.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        config: of the algorithm.
        seed: of the order of the steps.
    """

    def __init__(
        self, spec: EnvSpec, model: TrainedNetwork[N], precision: str, config: MinibatchConfig, seed: int
    ) -> None:
        super().__init__(spec, model, precision)
        self._epochs = config.epochs
        self._minibatches = config.minibatches
        self._seed = seed

    def _outputs(self, inputs: NetworkInput, core_state: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, Any]]:
        """``[b]`` slots and the network's output for all their entries, until every slot had its turn.

        Nothing where a rank has no share of the batch.
        """
        entries, num_slots = inputs.reward.shape
        for slots in torch.split(torch.arange(num_slots, device=self.device), self._chunk(entries)):
            if len(slots):
                yield (
                    slots,
                    self._forward(columns_of(inputs, slots, entries), tuple(each[slots] for each in core_state)),
                )

    def _optimizer_steps(
        self,
        inputs: NetworkInput,
        core_state: tuple[Tensor, ...],
        counted: Tensor,
        rate: float,
        max_grad_norm: float,
        loss: Loss,
        num_shown: int,
    ) -> Iterator[OptimizerStep]:
        """Make the optimizer's steps of one update, epoch by epoch, until one is not finite or the caller breaks off.

        Args:
            inputs: of T + 1 entries.
            core_state: at the first of them; with one, minibatches are of whole slots.
            counted: ``[c, T * B]`` float64, 1 where a step counts, by each way of counting.
            rate: step size.
            max_grad_norm: the gradient is clipped to it.
            loss: of some steps.
            num_shown: k, of the sums that it shows.
        """
        ranks = self.model.ranks
        num_slots, num_steps = inputs.reward.shape[1], counted.shape[1]
        share = share_of(num_slots, ranks, self.device)
        parts = minibatches(
            share,
            len(inputs.reward) - 1,
            self._epochs,
            self._minibatches,
            bool(core_state),
            self._seed,
            self.updates,
        )
        items = [part.to(self.device) for part in parts]
        flat = [flat_steps(each, num_slots, num_steps) if core_state else each for each in items]
        counts = torch.stack([counted[:, steps].sum(dim=1) for steps in flat])
        if ranks.size > 1:
            ranks.add_up([counts])
        for own, found in zip(items, counts.tolist(), strict=True):
            divisors = [max(count, 1.0) for count in found]
            sums = self._gradient(inputs, core_state, own, divisors, loss, num_shown)
            norm = self.model.grad_norm()
            numbers: list[float] = torch.cat([sums, norm.to(sums)[None]]).tolist()
            if not all(math.isfinite(number) for number in numbers):
                yield OptimizerStep(None, found)
                return
            # Where nothing is learned, Adam would keep moving in its former direction.
            if any(found):
                self.model.step(rate, max_grad_norm, numbers[-1])
            yield OptimizerStep(numbers, found)

    def _gradient(
        self,
        inputs: NetworkInput,
        core_state: tuple[Tensor, ...],
        items: Tensor,
        counts: list[float],
        loss: Loss,
        num_shown: int,
    ) -> Tensor:
        """Leave the minibatch's gradient in the parameters; returns the sums that are shown, of all ranks."""
        self.model.zero_grad()
        sums = torch.zeros(num_shown, dtype=torch.float64, device=self.device)
        entries, num_slots = inputs.reward.shape
        length = entries - 1
        for chunk in torch.split(items, self._chunk(length if core_state else 1)):
            if not len(chunk):
                continue
            if core_state:
                output = self._forward(columns_of(inputs, chunk, length), tuple(each[chunk] for each in core_state))
                steps = flat_steps(chunk, num_slots, length * num_slots)
            else:
                output, steps = self._forward(steps_of(inputs, chunk), ()), chunk
            of_chunk, shown = loss(output, steps, counts)
            of_chunk.backward()  # type: ignore[no-untyped-call]
            sums += shown
        self.model.add_up_over_ranks([sums])
        return sums

    def _forward(self, inputs: NetworkInput, core_state: tuple[Tensor, ...]) -> Any:
        with self.precision.autocast(self.device):
            return self.model.network(inputs, core_state)

    def _chunk(self, entries: int) -> int:
        return chunk_items(self.device, self.spec.observation_bytes, entries)
