"""PPO's learner: one update, of several epochs, from a batch of unrolls (arXiv 1707.06347)."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Adam

from machina.algorithms.actor_critic.algorithm import trained_network
from machina.algorithms.epochs.learning import MinibatchLearner
from machina.algorithms.ppo.config import PPOConfig
from machina.algorithms.ppo.metrics import BatchSums, StepSums, batch_metrics, kl_of_last_epoch, step_metrics
from machina.interfaces import Ranks
from machina.learner.base_learner import linear
from machina.losses.actor_critic import value_loss
from machina.losses.alignment import Steps, aligned
from machina.losses.gae import gae
from machina.losses.ppo import approximate_kl, clipped_policy_loss, clipped_value_loss, outside_clip
from machina.losses.team_spirit import team_spirit_rewards
from machina.nets.distributions import distribution_of
from machina.nets.network import NetworkInput, NetworkOutput, PolicyNetwork
from machina.nets.precision import resolve_device
from machina.nets.unroll_tensors import network_input, to_device
from machina.specs import EnvSpec
from machina.types import BEHAVIOUR_LOGITS, Array, Learned, Unroll


class Scheduled(NamedTuple):
    """The values that schedules give to one update."""

    learning_rate: float
    clip: float
    entropy_cost: float
    team_spirit: float


class Samples(NamedTuple):
    """What the minibatches are taken from; ``[N]`` float32 each, in the order ``t * B + slot``."""

    behaviour_log_probs: Tensor
    advantages: Tensor
    targets: Tensor
    """Of the values, normalized when PopArt is on."""
    values: Tensor
    """Before the update, normalized in the same way."""
    counted: Tensor
    """1 where the value is learned, else 0."""
    acted: Tensor
    """1 where the policy is learned as well, else 0."""


class Packed(NamedTuple):
    """Samples that are gathered at once: small networks spend most of their time on calls."""

    actions: Tensor
    """``[N, *action.shape]``."""
    numbers: Tensor
    """``[6, N]``: the fields of ``Samples``."""

    def taken(self, steps: Tensor) -> tuple[Tensor, Samples]:
        """Actions and numbers of some steps."""
        return self.actions[steps], Samples(*self.numbers[:, steps].unbind())


class PPOLearner(MinibatchLearner[PolicyNetwork]):
    """Clipped policy and value losses; see ``MinibatchLearner``."""

    def __init__(
        self,
        config: PPOConfig,
        spec: EnvSpec,
        device: str,
        precision: str,
        seed: int,
        ranks: Ranks,
    ) -> None:
        model = trained_network(
            config,
            spec,
            lambda parameters: Adam(parameters, lr=config.learning_rate, eps=config.adam_epsilon, fused=True),
            resolve_device(device),
            seed,
            ranks,
        )
        super().__init__(spec, model, precision, config, seed)
        self.config = config
        self._distribution = distribution_of(spec.action)

    def scheduled_at(self, done: float) -> Scheduled:
        """Linear over the run, of which the share ``done`` lies behind."""
        config = self.config
        return Scheduled(
            linear(config.learning_rate, config.learning_rate_final, done),
            linear(config.clip, config.clip_final, done),
            linear(config.entropy_cost, config.entropy_cost_final, done),
            linear(config.team_spirit, config.team_spirit_final, done),
        )

    def update(self, batch: Unroll[Array], done: float) -> Learned:
        """One update: values, advantages and statistics of the whole batch first, then epochs of minibatches.

        When something is not finite, no further step is made, and the update counts as skipped.

        Args:
            batch: of several ranks, this one's share of the slots, possibly none. Ranks whose parameters are equal
                make the same update, that of the whole batch, and return its metrics.
            done: fraction of the run that is done.

        Raises:
            RanksBrokenError: another rank is gone; part of the update may have been made.
        """
        model, scheduled = self.model, self.scheduled_at(done)
        unroll = to_device(batch, self.device)
        steps = aligned(unroll)
        inputs = network_input(unroll, steps.first, steps.previous_actions, self.spec)
        samples, sums, statistics = self._samples(unroll, steps, inputs, scheduled)
        filter_sums = model.filter_sums(inputs, steps.mask)
        if model.ranks.size > 1:
            model.ranks.add_up([sums, statistics, filter_sums])
        totals = BatchSums(*sums.tolist())
        metrics = batch_metrics(totals)
        finite = all(math.isfinite(number) for number in totals)
        epochs: float | None = None
        if finite:
            samples = self._normalized(samples, unroll.task_id, totals, statistics)
            packed = Packed(steps.actions.flatten(0, 1), torch.stack(samples))
            epochs = self._learn(packed, inputs, unroll, scheduled, metrics)
            finite = epochs is not None
            model.update_filter(filter_sums)
        metrics |= {
            "learner/learning_rate": scheduled.learning_rate,
            "learner/team_spirit": scheduled.team_spirit,
        }
        self.updates += 1
        return Learned(metrics | model.popart_metrics(), skipped=not finite, passes=epochs or 0.0)

    # Before the epochs

    @torch.no_grad()
    def _samples(
        self, unroll: Unroll[Tensor], steps: Steps, inputs: NetworkInput, scheduled: Scheduled
    ) -> tuple[Samples, Tensor, Tensor]:
        """What is learned, the fields of ``BatchSums`` as a float64 vector, and PopArt's sums.

        Values and their targets are in units of the rewards; advantages too, or with PopArt in those of their task.
        """
        config, model = self.config, self.model
        _, values = model.values_of(self._values(inputs, unroll.core_state), unroll.task_id)
        rewards = team_spirit_rewards(
            steps.rewards, steps.team_rewards, steps.enemy_rewards, scheduled.team_spirit, config.zero_sum
        )
        if config.clips_rewards(self.spec):
            rewards = rewards.clamp(-1, 1)
        advantages, targets = gae(
            rewards,
            steps.continues,
            values[:-1],
            values[-1],
            steps.mask,
            gamma=config.gamma,
            lambda_=config.gae_lambda,
            on_turn=steps.on_turn if self.spec.seats else None,
        )
        if model.popart is not None:  # else the task of the largest rewards is all that the policy learns
            advantages = (advantages / model.popart.sigma[unroll.task_id]).float()
        acted = steps.mask & steps.on_turn

        def both(per_step: Tensor, counted: Tensor) -> list[Tensor]:
            kept = torch.where(counted, per_step, 0.0).double()
            return [kept.sum(), kept.square().sum()]

        sums = [acted.sum().double(), steps.mask.sum().double(), *both(advantages, acted)]
        sums += [*both(targets, steps.mask), *both(targets - values[:-1], steps.mask)]
        statistics = torch.zeros(3, self.spec.num_tasks, dtype=torch.float64, device=self.device)
        if model.popart is not None:
            statistics = model.popart.statistics(targets, unroll.task_id, steps.mask)
        # What is not counted may have been forbidden: its ratio must not overflow.
        behaviour_log_probs = (
            self._distribution.log_probs(steps.policy_outputs[BEHAVIOUR_LOGITS], steps.actions) * acted
        )
        per_step = (behaviour_log_probs, advantages, targets, values[:-1], steps.mask.float(), acted.float())
        return Samples(*(tensor.flatten() for tensor in per_step)), torch.stack(sums), statistics

    def _values(self, inputs: NetworkInput, core_state: tuple[Tensor, ...]) -> Tensor:
        """``[T + 1, B, num_tasks]``: what the value heads return before the update."""
        values = torch.zeros(*inputs.reward.shape, self.spec.num_tasks, device=self.device)
        for slots, output in self._outputs(inputs, core_state):
            values[:, slots] = output.values
        return values

    def _normalized(self, samples: Samples, task_id: Tensor, totals: BatchSums, statistics: Tensor) -> Samples:
        """Advantages at unit scale, and value targets at that of PopArt, whose statistics move first."""
        popart = self.model.popart
        if self.config.normalize_advantages:
            steps = max(totals.acted, 1.0)
            mean = totals.advantages / steps
            deviation = math.sqrt(max(0.0, totals.squared_advantages / steps - mean * mean))
            samples = samples._replace(advantages=(samples.advantages - mean) / (deviation + 1e-8))
        if popart is None:
            return samples
        popart.update(statistics, self.model.network.value_head)
        task_ids = task_id.repeat(len(samples.values) // max(1, len(task_id)))
        return samples._replace(
            targets=popart.normalized(samples.targets, task_ids), values=popart.normalized(samples.values, task_ids)
        )

    # Epochs

    def _learn(
        self,
        packed: Packed,
        inputs: NetworkInput,
        unroll: Unroll[Tensor],
        scheduled: Scheduled,
        metrics: dict[str, float],
    ) -> float | None:
        """The optimizer's steps; fills in ``metrics`` and returns the epochs made, None if something was not finite."""
        counted = Samples(*packed.numbers.double())
        made = self._optimizer_steps(
            inputs,
            unroll.core_state,
            torch.stack([counted.acted, counted.counted]),
            scheduled.learning_rate,
            self.config.max_grad_norm,
            functools.partial(self._loss, packed, inputs.task_id[0], scheduled),
            num_shown=len(StepSums._fields) - 1,
        )
        sums: list[StepSums] = []
        counts: list[list[float]] = []
        per_epoch = self.config.minibatches
        most = math.inf if self.config.target_kl is None else self.config.target_kl
        for step in made:
            if step.sums is None:
                return None
            sums.append(StepSums(*step.sums))
            counts.append(step.counts)
            if len(sums) % per_epoch == 0 and kl_of_last_epoch(sums, counts, per_epoch) > most:
                break
        metrics |= step_metrics(sums, counts, per_epoch, self.config.value_cost)
        return len(sums) / per_epoch

    def _loss(
        self,
        packed: Packed,
        task_id: Tensor,
        scheduled: Scheduled,
        output: NetworkOutput,
        steps: Tensor,
        counts: list[float],
    ) -> tuple[Tensor, Tensor]:
        """See ``machina.algorithms.epochs.learning.Loss``; counted are the steps acted on, and all that count."""
        actions, taken = packed.taken(steps)
        parameters = output.logits.flatten(0, 1)
        of_slots = task_id[steps[: output.values.shape[1]] % len(task_id)]
        values = self.model.values_of(output.values, of_slots)[0].flatten()
        log_probs = self._distribution.log_probs(parameters, actions) * taken.acted
        log_ratios = log_probs - taken.behaviour_log_probs
        policy = clipped_policy_loss(log_probs, taken.behaviour_log_probs, taken.advantages, scheduled.clip)
        if self.config.value_clip is None:
            squared = value_loss(values, taken.targets)
        else:
            squared = clipped_value_loss(values, taken.values, taken.targets, self.config.value_clip)
        entropies = self._distribution.entropies(parameters)

        with torch.no_grad():
            shown = [approximate_kl(log_ratios), outside_clip(log_ratios, scheduled.clip)]
        per_step = torch.stack([policy, squared, entropies, *shown])
        sums = per_step @ taken.acted
        value_sum = squared @ taken.counted
        loss = (sums[0] - scheduled.entropy_cost * sums[2]) / counts[0] + self.config.value_cost * value_sum / counts[1]
        sums = sums.detach().clone()
        sums[1] = value_sum.detach()
        return loss, sums.double()
