"""IMPALA's learner: one update from a batch of unrolls."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from machina.algorithms.actor_critic.algorithm import trained_network
from machina.algorithms.impala.config import ImpalaConfig
from machina.interfaces import Ranks
from machina.learner.base_learner import BaseLearner, explained_variance
from machina.learner.optimizers import RMSPropTF
from machina.losses.actor_critic import policy_gradient_loss, value_loss
from machina.losses.alignment import aligned
from machina.losses.vtrace import vtrace
from machina.nets.distributions import distribution_of
from machina.nets.network import NetworkOutput, PolicyNetwork
from machina.nets.precision import resolve_device
from machina.nets.unroll_tensors import network_input, slots_of, to_device
from machina.specs import EnvSpec
from machina.types import BEHAVIOUR_LOGITS, Array, Learned, Unroll

CPU_CHUNK_ENTRIES = 256
"""Entries that go through the network at once on a CPU; more fall out of its caches (measured: 2,450 entries/s at
250, 2,220 at 500, 1,990 at 670, one thread, shallow net)."""

Number = TypeVar("Number", Tensor, float)


class Sums(NamedTuple, Generic[Number]):
    """Sums over the counted steps of some slots, scalars each, losses without their weights."""

    policy_loss: Number
    value_loss: Number
    entropy_loss: Number
    steps: Number
    rhos: Number
    clipped_rhos: Number
    targets: Number
    squared_targets: Number
    errors: Number
    squared_errors: Number


class ImpalaLearner(BaseLearner[PolicyNetwork]):
    """Losses are sums over batch and time: slots may be taken in chunks, and shared out to ranks; gradients add up."""

    def __init__(
        self,
        config: ImpalaConfig,
        spec: EnvSpec,
        device: str,
        precision: str,
        seed: int,
        ranks: Ranks,
    ) -> None:
        model = trained_network(
            config, spec, lambda parameters: make_optimizer(config, parameters), resolve_device(device), seed, ranks
        )
        super().__init__(spec, model, precision)
        self.config = config
        self._distribution = distribution_of(spec.action)

    def update(self, batch: Unroll[Array], done: float) -> Learned:
        """One update: gradient step first, then PopArt's statistics and its output-preserving step.

        In that order the gradient belongs to the statistics its targets were normalized with. When a loss or the
        gradient is not finite, parameters, optimizer and PopArt stay as they are.

        Args:
            batch: of several ranks, this one's share of the slots, possibly none. Ranks whose parameters are equal
                make the same update, that of the whole batch, and return its metrics.
            done: fraction of the run that is done; the learning rate falls linearly to 0 over the run.

        Raises:
            RanksBrokenError: another rank is gone; everything but the gradients is as before.
        """
        model = self.model
        learning_rate = self.config.learning_rate * max(0.0, 1 - done)
        model.zero_grad()
        sums, statistics, filter_sums = self._accumulate_gradients(to_device(batch, self.device))
        model.add_up_over_ranks([sums, statistics, filter_sums])
        grad_norm = model.grad_norm()
        # The only wait for the device before the step: everything that is shown comes in one transfer.
        *numbers, norm = torch.cat([sums, grad_norm[None]]).tolist()
        totals = Sums(*numbers)
        metrics = _metrics(totals, self.config)
        metrics["learner/grad_norm"] = norm
        metrics["learner/learning_rate"] = learning_rate
        finite = math.isfinite(weighted_loss(totals, self.config)) and math.isfinite(norm)
        if finite:
            model.step(learning_rate, self.config.max_grad_norm, norm)
            if model.popart is not None:
                model.popart.update(statistics, model.network.value_head)
            model.update_filter(filter_sums)
        self.updates += 1
        return Learned(metrics | model.popart_metrics(), skipped=not finite)

    def _accumulate_gradients(self, unroll: Unroll[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Backward over all slots; the fields of ``Sums`` as a float64 vector, PopArt's and the filter's sums."""
        entries, num_slots = unroll.reward.shape
        chunk = max(1, num_slots if self.device.type != "cpu" else CPU_CHUNK_ENTRIES // entries)
        sums = torch.zeros(len(Sums._fields), dtype=torch.float64, device=self.device)
        statistics = torch.zeros(3, self.spec.num_tasks, dtype=torch.float64, device=self.device)
        filter_sums = self.model.new_filter_sums()
        for start in range(0, num_slots, chunk):
            part = slots_of(unroll, slice(start, start + chunk))
            loss, part_sums, part_statistics, part_filter_sums = self._losses(part)
            loss.backward()  # type: ignore[no-untyped-call]
            sums += torch.stack([value.detach().double() for value in part_sums])
            statistics += part_statistics
            filter_sums += part_filter_sums
        return sums, statistics, filter_sums

    def _losses(self, unroll: Unroll[Tensor]) -> tuple[Tensor, Sums[Tensor], Tensor, Tensor]:
        """Loss to be minimized, its parts, PopArt's statistics and the filter's sums, of some slots."""
        config, model, distribution = self.config, self.model, self._distribution
        steps = aligned(unroll)
        inputs = network_input(unroll, steps.first, steps.previous_actions, self.spec)
        with self.precision.autocast(self.device):
            output: NetworkOutput = model.network(inputs, unroll.core_state)
        normalized, values = model.values_of(output.values, unroll.task_id)
        logits = output.logits[:-1]
        log_probs = distribution.log_probs(logits, steps.actions)
        log_rhos = log_probs.detach() - distribution.log_probs(steps.policy_outputs[BEHAVIOUR_LOGITS], steps.actions)
        rewards = steps.rewards.clamp(-1, 1) if config.clips_rewards(self.spec) else steps.rewards
        vs, pg_advantages = vtrace(
            log_rhos,
            steps.continues,
            rewards,
            values[:-1],
            values[-1],
            steps.mask,
            gamma=config.gamma,
            rho_clip=config.rho_clip,
            c_clip=config.c_clip,
            pg_rho_clip=config.pg_rho_clip,
            lambda_=config.vtrace_lambda,
            on_turn=steps.on_turn if self.spec.seats else None,
        )
        statistics = torch.zeros(3, self.spec.num_tasks, dtype=torch.float64, device=self.device)
        targets = vs
        if model.popart is not None:
            statistics = model.popart.statistics(vs, unroll.task_id, steps.mask)
            targets = model.popart.normalized(vs, unroll.task_id)
            pg_advantages = (pg_advantages / model.popart.sigma[unroll.task_id]).float()
        acted = steps.mask & steps.on_turn

        def total(per_step: Tensor, counted: Tensor = acted) -> Tensor:
            return torch.where(counted, per_step, 0.0).sum()

        rhos = log_rhos.exp()
        errors = targets - normalized[:-1].detach()
        sums = Sums(
            policy_loss=total(policy_gradient_loss(log_probs, pg_advantages)),
            value_loss=total(value_loss(normalized[:-1], targets), steps.mask),
            entropy_loss=-total(distribution.entropies(logits)),
            steps=acted.sum(),
            rhos=total(rhos),
            clipped_rhos=total(rhos > config.rho_clip),
            targets=total(targets),
            squared_targets=total(targets.square()),
            errors=total(errors),
            squared_errors=total(errors.square()),
        )
        return weighted_loss(sums, config), sums, statistics, model.filter_sums(inputs, steps.mask)


def make_optimizer(config: ImpalaConfig, parameters: Iterable[Tensor]) -> Optimizer:
    """The optimizer asked for."""
    if config.optimizer == "adam":
        # Fused: 0.8 ms instead of 5.1 for 700,000 weights on one core, out of 40 ms for a small update.
        return Adam(parameters, lr=config.learning_rate, eps=config.adam_epsilon, fused=True)
    return RMSPropTF(
        parameters, config.learning_rate, config.rmsprop_decay, config.rmsprop_epsilon, config.rmsprop_momentum
    )


def weighted_loss(sums: Sums[Number], config: ImpalaConfig) -> Number:
    """What is minimized: policy gradient, value error and entropy bonus with their weights."""
    return sums.policy_loss + config.baseline_cost * sums.value_loss + config.entropy_cost * sums.entropy_loss


def _metrics(sums: Sums[float], config: ImpalaConfig) -> dict[str, float]:
    """What is shown of an update: the losses as sums, as they are minimized; the rest as means over steps."""
    steps = max(sums.steps, 1.0)
    targets, errors = (sums.targets, sums.squared_targets), (sums.errors, sums.squared_errors)
    return {
        "learner/total_loss": weighted_loss(sums, config),
        "learner/policy_loss": sums.policy_loss,
        "learner/baseline_loss": config.baseline_cost * sums.value_loss,
        "learner/entropy": -sums.entropy_loss / steps,
        "learner/rho": sums.rhos / steps,
        "learner/rho_clipped_share": sums.clipped_rhos / steps,
        "learner/explained_variance": explained_variance(targets, errors, steps),
    }
