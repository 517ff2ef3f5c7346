"""The learner of DQN, Rainbow and Ape-X: one update from a batch of windows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from machina.algorithms.replaying.config import TransitionConfig
from machina.algorithms.replaying.target_network import TargetNetworkLearner
from machina.algorithms.replaying.targets import Samples, samples_of
from machina.interfaces import Ranks
from machina.learner.minibatches import chunk_items
from machina.losses.distributional import cross_entropies, divergences, projected
from machina.losses.q_learning import huber, margin_loss, values_of
from machina.nets.q_network import QOutput
from machina.nets.unroll_tensors import to_device
from machina.specs import EnvSpec
from machina.types import Array, Learned, Unroll


class Sums(NamedTuple):
    """Sums over the items of a batch."""

    losses: float
    q_values: float
    targets: float
    errors: float
    """Sizes of the errors, of distributions their divergences."""
    weights: float


class ReplayingLearner(TargetNetworkLearner):
    """Losses are means over the batch, weighted by importance; see ``TargetNetworkLearner`` for the arguments."""

    def __init__(
        self, config: TransitionConfig, spec: EnvSpec, device: str, precision: str, seed: int, ranks: Ranks
    ) -> None:
        super().__init__(config, spec, device, precision, seed, ranks)
        self.config = config

    def update(self, batch: Unroll[Array], done: float) -> Learned:  # noqa: ARG002 (nothing follows a schedule)
        """One update; when something is not finite, the parameters stay as they are.

        Args:
            batch: windows of n + 1 entries; of several ranks, this one's share of the slots, possibly none.
            done: fraction of the run that is done.

        Raises:
            RanksBrokenError: another rank is gone; everything but the gradients is as before.
        """
        config, model = self.config, self.model
        samples = samples_of(
            to_device(batch, self.device), self.spec, gamma=config.gamma, clips_rewards=config.clips_rewards(self.spec)
        )
        self._redraw_noise()
        count = self._count(len(samples.actions))
        model.zero_grad()
        sums = torch.zeros(len(Sums._fields), dtype=torch.float64, device=self.device)
        errors = []
        size = chunk_items(self.device, self.spec.observation_bytes, 1)
        for start in range(0, len(samples.actions), size):
            part = samples.of(slice(start, start + size))
            loss, of_part, part_sums = self._loss(part)
            (loss / count).backward()  # type: ignore[no-untyped-call]
            sums += part_sums
            errors.append(of_part)
        numbers, learned = self._learn(sums, self._filter_sums(samples), errors)
        return learned._replace(metrics=_metrics(Sums(*numbers), count) | learned.metrics)

    def _count(self, own: int) -> float:
        """Items of the whole batch."""
        if self.model.ranks.size == 1:
            return float(own)
        count = torch.tensor([float(own)], dtype=torch.float64, device=self.device)
        self.model.ranks.add_up([count])
        return count.item()

    def _filter_sums(self, samples: Samples) -> Tensor:
        """Of every entry that an action was learned for, as often as it is drawn."""
        if self.model.filter is None:
            return self.model.new_filter_sums()
        observation = {key: tensor[0] for key, tensor in samples.inputs.observation.items()}
        return self.model.filter.sums(observation, torch.ones_like(samples.shown))

    def _loss(self, samples: Samples) -> tuple[Tensor, Tensor, Tensor]:
        """The weighted loss, summed; each item's error ``[b]``; the fields of ``Sums`` as a float64 vector."""
        targets, distribution = self._targets(samples)
        output = self._forward(samples.inputs)
        taken = values_of(output.q_values[0], samples.actions)
        if distribution is None:
            differences = targets - taken
            errors = differences.detach().abs()
            losses = huber(differences) if self.config.loss == "huber" else 0.5 * differences.square()
        else:
            assert output.logits is not None
            logits = _of_actions(output.logits[0], samples.actions)
            losses = cross_entropies(distribution, logits)
            errors = divergences(distribution, logits.detach())
        if self.config.margin_cost:
            margins = margin_loss(output.q_values[0], samples.actions, margin=self.config.margin)
            losses = losses + self.config.margin_cost * torch.where(samples.shown, margins, 0.0)
        loss = (losses * samples.weights).sum()
        shown = [loss.detach(), taken.detach().sum(), targets.sum(), errors.sum(), samples.weights.sum()]
        return loss, errors, torch.stack([each.double() for each in shown])

    @torch.no_grad()
    def _targets(self, samples: Samples) -> tuple[Tensor, Tensor | None]:
        """Values ``[b]`` that are to be predicted, and their distributions ``[b, atoms]`` if those are learned."""
        window = samples.window
        of_target = self._forward(samples.next_inputs, of_target=True)
        chosen = of_target.q_values[0]
        if self.config.double_q:
            chosen = self._forward(samples.next_inputs).q_values[0]
        best = chosen.argmax(dim=-1)
        targets = window.returns + window.discounts * values_of(of_target.q_values[0], best)
        if of_target.logits is None:
            return targets, None
        support = self.target.support
        assert support is not None
        probabilities = _of_actions(of_target.logits[0], best).softmax(dim=-1)
        return targets, projected(probabilities, window.returns, window.discounts, support)

    def _forward(self, inputs: object, *, of_target: bool = False) -> QOutput:
        network = self.target if of_target else self.model.network
        with self.precision.autocast(self.device):
            return network(inputs, ())  # type: ignore[arg-type]


def _of_actions(logits: Tensor, actions: Tensor) -> Tensor:
    """``[b, atoms]``: of ``actions`` ``[b]`` among ``[b, A, atoms]``."""
    index = actions.clamp(min=0)[:, None, None].expand(-1, 1, logits.shape[-1])
    return logits.gather(1, index).squeeze(1)


def _metrics(sums: Sums, count: float) -> dict[str, float]:
    """Means over the batch."""
    items = max(1.0, count)
    return {
        "learner/q_loss": sums.losses / items,
        "learner/q_value": sums.q_values / items,
        "learner/target": sums.targets / items,
        "learner/error": sums.errors / items,
        "replay/importance_weight": sums.weights / items,
    }
