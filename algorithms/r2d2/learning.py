"""R2D2's learner: one update from a batch of sequences (OpenReview r1lyTjAqYX, section 2.3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from machina.algorithms.r2d2.config import R2D2Config
from machina.algorithms.replaying.target_network import TargetNetworkLearner
from machina.interfaces import Ranks
from machina.learner.minibatches import chunk_items
from machina.losses.alignment import aligned
from machina.losses.n_step import n_step_returns
from machina.losses.q_learning import huber, sequence_priorities, values_of
from machina.losses.value_rescaling import rescaled, unrescaled
from machina.nets.network import CoreTensors, NetworkInput
from machina.nets.q_network import QOutput
from machina.nets.unroll_tensors import network_input, slots_of, to_device
from machina.nets.value_network import ValueNetwork
from machina.specs import EnvSpec
from machina.types import Array, Learned, Unroll


class Sums(NamedTuple):
    """Sums over the steps that are learned."""

    losses: float
    q_values: float
    targets: float
    errors: float
    weights: float


class R2D2Learner(TargetNetworkLearner):
    """Losses are means over the learned steps; see ``TargetNetworkLearner`` for the arguments."""

    def __init__(self, config: R2D2Config, spec: EnvSpec, device: str, precision: str, seed: int, ranks: Ranks) -> None:
        super().__init__(config, spec, device, precision, seed, ranks)
        self.config = config

    def update(self, batch: Unroll[Array], done: float) -> Learned:  # noqa: ARG002 (nothing follows a schedule)
        """One update; when something is not finite, the parameters stay as they are.

        Args:
            batch: sequences of ``burn_in_length + sequence_length + 1`` entries; of several ranks, this one's share.
            done: fraction of the run that is done.

        Raises:
            RanksBrokenError: another rank is gone; everything but the gradients is as before.
        """
        model = self.model
        unroll = to_device(batch, self.device)
        self._redraw_noise()
        entries, num_slots = unroll.reward.shape
        count = self._count(unroll)
        model.zero_grad()
        sums = torch.zeros(len(Sums._fields), dtype=torch.float64, device=self.device)
        filter_sums = model.new_filter_sums()
        priorities = []
        size = chunk_items(self.device, self.spec.observation_bytes, entries)
        for start in range(0, num_slots, size):
            loss, of_part, part_sums, part_filter_sums = self._loss(slots_of(unroll, slice(start, start + size)))
            (loss / count).backward()  # type: ignore[no-untyped-call]
            sums += part_sums
            filter_sums += part_filter_sums
            priorities.append(of_part)
        numbers, learned = self._learn(sums, filter_sums, priorities)
        metrics = {f"learner/{name}": value / count for name, value in _shown(Sums(*numbers)).items()}
        return learned._replace(metrics=metrics | learned.metrics)

    def _count(self, unroll: Unroll[Tensor]) -> float:
        """Learned steps of the whole batch, 1 at least."""
        count = aligned(unroll).mask[self.config.burn_in_length :].sum().double()[None]
        if self.model.ranks.size > 1:
            self.model.ranks.add_up([count])
        return max(1.0, count.item())

    def _loss(self, unroll: Unroll[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The weighted loss, summed; each sequence's priority ``[b]``; the fields of ``Sums``; the filter's sums."""
        config = self.config
        steps = aligned(unroll)
        inputs = network_input(unroll, steps.first, steps.previous_actions, self.spec)
        core_state = unroll.core_state
        if not config.stored_state:
            core_state = tuple(torch.zeros_like(each) for each in core_state)
        learned = slice(config.burn_in_length, None)
        with torch.no_grad():
            of_target = self._forward(self.target, inputs, core_state).q_values[learned]
        online = self._burnt_in(inputs, core_state).q_values
        chosen = online.detach() if config.double_q else of_target
        values = values_of(of_target, chosen.argmax(dim=-1))
        if config.rescales_values:
            values = unrescaled(values)
        rewards = steps.rewards.clamp(-1, 1) if config.clips_rewards(self.spec) else steps.rewards
        ends = (unroll.terminated | unroll.truncated)[1:]
        targets = n_step_returns(
            rewards[learned], steps.continues[learned], ends[learned], values, gamma=config.gamma, n=config.n_step
        )
        if config.rescales_values:
            targets = rescaled(targets)
        mask = steps.mask[learned]
        taken = values_of(online[:-1], steps.actions[learned])
        differences = torch.where(mask, targets - taken, 0.0)
        losses = huber(differences) if config.loss == "huber" else 0.5 * differences.square()
        loss = (losses * unroll.weight).sum()
        errors = differences.detach().abs()
        shown = [loss.detach(), *(torch.where(mask, each.detach(), 0.0).sum() for each in (taken, targets))]
        shown += [errors.sum(), (mask * unroll.weight).sum()]
        priorities = sequence_priorities(errors, mask, eta=config.largest_error_weight)
        sums = torch.stack([each.double() for each in shown])
        return loss, priorities, sums, self.model.filter_sums(inputs, steps.mask)

    def _burnt_in(self, inputs: NetworkInput, core_state: CoreTensors) -> QOutput:
        """The output for the learned part, whose first core state has no gradient."""
        burn_in = self.config.burn_in_length
        if burn_in:
            with torch.no_grad():
                core_state = self._forward(self.model.network, _entries(inputs, 0, burn_in), core_state).core_state
        return self._forward(self.model.network, _entries(inputs, burn_in, len(inputs.reward)), core_state)

    def _forward(self, network: ValueNetwork, inputs: NetworkInput, core_state: CoreTensors) -> QOutput:
        with self.precision.autocast(self.device):
            return network(inputs, core_state)


def _entries(inputs: NetworkInput, start: int, stop: int) -> NetworkInput:
    observation = {key: tensor[start:stop] for key, tensor in inputs.observation.items()}
    return NetworkInput(observation, *(tensor[start:stop] for tensor in inputs[1:]))


def _shown(sums: Sums) -> dict[str, float]:
    return {
        "q_loss": sums.losses,
        "q_value": sums.q_values,
        "target": sums.targets,
        "error": sums.errors,
        "importance_weight": sums.weights,
    }
