"""PPO's learner: one update, of several epochs, from a batch of unrolls (arXiv 1707.06347)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Adam

from machina.algorithms.actor_critic.algorithm import trained_network
from machina.algorithms.ppo.config import PPOConfig
from machina.algorithms.ppo.metrics import BatchSums, StepSums, batch_metrics, step_metrics
from machina.interfaces import Ranks
from machina.learner.base_learner import BaseLearner, linear
from machina.learner.minibatches import chunk_items, flat_steps, minibatches, share_of
from machina.losses.actor_critic import value_loss
from machina.losses.alignment import Steps, aligned
from machina.losses.gae import gae
from machina.losses.ppo import approximate_kl, clipped_policy_loss, clipped_value_loss, outside_clip
from machina.losses.team_spirit import team_spirit_rewards
from machina.nets.distributions import distribution_of
from machina.nets.network import NetworkInput, NetworkOutput, PolicyNetwork
from machina.nets.precision import resolve_device
from machina.nets.unroll_tensors import columns_of, network_input, steps_of, to_device
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


class PPOLearner(BaseLearner[PolicyNetwork]):
    """Gradients are means over the steps of a minibatch: sums over this rank's steps, divided by the number of steps on
    all ranks, so that what the ranks add up is the gradient of the whole minibatch.
    """

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
        super().__init__(spec, model, precision)
        self.config = config
        self.seed = seed
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
            done: share of the run that lies behind.

        Raises:
            RanksBrokenError: another rank is gone; part of the update may have been made.
        """
        model, scheduled = self.model, self.scheduled_at(done)
        unroll = to_device(batch, self.device)
        steps = aligned(unroll)
        inputs = network_input(unroll, steps.first, steps.previous_actions, self.spec)
        share = share_of(unroll.reward.shape[1], model.ranks, self.device)
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
            parts = list(
                minibatches(
                    share,
                    len(steps.mask),
                    self.config.epochs,
                    self.config.minibatches,
                    bool(unroll.core_state),
                    self.seed,
                    self.updates,
                )
            )
            packed = Packed(steps.actions.flatten(0, 1), torch.stack(samples))
            epochs = self._learn(packed, inputs, unroll, parts, scheduled, metrics)
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
        entries, num_slots = inputs.reward.shape
        values = torch.zeros(entries, num_slots, self.spec.num_tasks, device=self.device)
        for slots in torch.split(torch.arange(num_slots, device=self.device), self._chunk(entries)):
            if len(slots):  # else a rank without a share of this batch
                values[:, slots] = self._forward(
                    columns_of(inputs, slots, entries), tuple(each[slots] for each in core_state)
                ).values
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
        parts: list[Tensor],
        scheduled: Scheduled,
        metrics: dict[str, float],
    ) -> float | None:
        """The optimiser's steps; fills in ``metrics`` and returns the epochs made, None if something was not finite."""
        num_slots = unroll.reward.shape[1]
        items = [part.to(self.device) for part in parts]
        flat = [flat_steps(each, num_slots, len(packed.actions)) if unroll.core_state else each for each in items]
        counted, acted = Samples(*packed.numbers.double())[-2:]
        counts = torch.stack([torch.stack([acted[steps].sum(), counted[steps].sum()]) for steps in flat])
        if self.model.ranks.size > 1:
            self.model.ranks.add_up([counts])
        done: list[StepSums] = []
        made: list[tuple[float, float]] = []
        per_epoch = self.config.minibatches
        shown: dict[str, float] = {}
        for index, found in enumerate(counts.tolist()):
            steps = (max(found[0], 1.0), max(found[1], 1.0))
            sums = self._step(packed, inputs, unroll.core_state, items[index], steps, scheduled, learns=any(found))
            if sums is None:
                return None
            done.append(sums)
            made.append(steps)
            if (index + 1) % per_epoch:
                continue
            shown = step_metrics(done, made, per_epoch, self.config.value_cost)
            if self.config.target_kl is not None and shown["learner/kl"] > self.config.target_kl:
                break
        metrics |= shown
        return len(done) / per_epoch

    def _step(
        self,
        packed: Packed,
        inputs: NetworkInput,
        core_state: tuple[Tensor, ...],
        items: Tensor,
        counts: tuple[float, float],
        scheduled: Scheduled,
        *,
        learns: bool,
    ) -> StepSums | None:
        """One step of the optimiser; None if it was not finite and not made.

        Without anything that ``learns``, Adam would keep moving in its former direction; then the step is left out.
        """
        model = self.model
        model.zero_grad()
        sums = torch.zeros(len(StepSums._fields) - 1, dtype=torch.float64, device=self.device)
        entries = len(inputs.reward) - 1
        for chunk in torch.split(items, self._chunk(entries if core_state else 1)):
            if len(chunk):
                loss, parts = self._losses(packed, inputs, core_state, chunk, counts, scheduled)
                loss.backward()  # type: ignore[no-untyped-call]
                sums += parts
        model.add_up_over_ranks([sums])
        grad_norm = model.grad_norm()
        numbers = StepSums(*torch.cat([sums, grad_norm[None]]).tolist())
        if not all(math.isfinite(number) for number in numbers):
            return None
        if learns:
            model.step(scheduled.learning_rate, self.config.max_grad_norm, grad_norm)
        return numbers

    def _losses(
        self,
        packed: Packed,
        inputs: NetworkInput,
        core_state: tuple[Tensor, ...],
        items: Tensor,
        counts: tuple[float, float],
        scheduled: Scheduled,
    ) -> tuple[Tensor, Tensor]:
        """Loss of some items, divided by the minibatch's counts, and ``[5]`` sums that are shown."""
        num_slots = inputs.reward.shape[1]
        if core_state:
            output = self._forward(
                columns_of(inputs, items, entries=len(inputs.reward) - 1), tuple(each[items] for each in core_state)
            )
            flat = flat_steps(items, num_slots, len(packed.actions))
            task_id = inputs.task_id[0, items]
        else:
            output = self._forward(steps_of(inputs, items), ())
            flat, task_id = items, inputs.task_id[0, items % num_slots]
        actions, taken = packed.taken(flat)
        parameters = output.logits.flatten(0, 1)
        values = self.model.values_of(output.values, task_id)[0].flatten()
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

    def _forward(self, inputs: NetworkInput, core_state: tuple[Tensor, ...]) -> NetworkOutput:
        with self.precision.autocast(self.device):
            output: NetworkOutput = self.model.network(inputs, core_state)
        return output

    def _chunk(self, entries: int) -> int:
        return chunk_items(self.device, self.spec.observation_bytes, entries)
