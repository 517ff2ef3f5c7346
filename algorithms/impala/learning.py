"""IMPALA's learner: one update from a batch of unrolls."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from machina.algorithms.actor_critic.parts import trained_network
from machina.algorithms.impala.config import ImpalaConfig
from machina.interfaces import LearnerState, Ranks
from machina.losses.actor_critic import policy_gradient_loss, value_loss
from machina.losses.alignment import aligned
from machina.losses.vtrace import vtrace
from machina.nets.distributions import distribution_of
from machina.nets.network import NetworkOutput
from machina.nets.optimizers import RMSPropTF
from machina.nets.parameters import flattened
from machina.nets.precision import resolve_device, resolve_precision
from machina.nets.unroll_tensors import network_input, slots_of, to_device
from machina.specs import EnvSpec
from machina.types import Array, Unroll

CPU_CHUNK_ENTRIES = 256
"""Entries that go through the network at once on a CPU; more fall out of its caches (measured: 2,450 entries/s at
250, 2,220 at 500, 1,990 at 670, one thread, shallow net)."""

Number = TypeVar("Number", Tensor, float)


class Sums(NamedTuple, Generic[Number]):
    """Sums over the counted steps of some slots, scalars each, losses without their weights."""

    env_steps: Number
    """All steps, the reset steps that are not counted included."""

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


class ImpalaLearner:
    """Implements ``machina.interfaces.Learner``.

    Losses are sums over batch and time, so slots may be taken in chunks, and be shared out to ranks, whose gradients
    add up.
    """

    def __init__(
        self,
        config: ImpalaConfig,
        spec: EnvSpec,
        total_env_steps: int,
        device: str,
        precision: str,
        seed: int,
        ranks: Ranks,
    ) -> None:
        self.config = config
        self.spec = spec
        self.total_env_steps = total_env_steps
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device, spec.observation_bytes)
        self.model = trained_network(
            config,
            spec,
            lambda parameters: make_optimizer(config, parameters),
            self.device,
            seed,
            ranks,
        )
        self._distribution = distribution_of(spec.action)
        self.env_steps = 0
        self.updates = 0

    @property
    def learning_rate(self) -> float:
        """Linear from the configured value to 0 over the run's env steps."""
        return self.config.learning_rate * max(0.0, 1 - self.env_steps / self.total_env_steps)

    def update(self, batch: Unroll[Array]) -> dict[str, float]:
        """One update: gradient step first, then PopArt's statistics and its output-preserving step.

        In that order the gradient belongs to the statistics its targets were normalized with. When a loss or the
        gradient is not finite, parameters, optimiser and PopArt stay as they are and ``learner/skipped`` is 1.

        Args:
            batch: of several ranks, this one's share of the slots, possibly none. Ranks whose parameters are equal
                make the same update, that of the whole batch, and return its metrics.

        Raises:
            RanksBrokenError: another rank is gone; everything but the gradients is as before.
        """
        model = self.model
        learning_rate = self.learning_rate
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
        finite = math.isfinite(metrics["learner/total_loss"]) and math.isfinite(norm)
        metrics["learner/skipped"] = 0.0 if finite else 1.0
        if finite:
            model.step(learning_rate, self.config.max_grad_norm, grad_norm)
            if model.popart is not None:
                model.popart.update(statistics, model.network.value_head)
            model.update_filter(filter_sums)
        self.env_steps += int(totals.env_steps)
        self.updates += 1
        return metrics | model.popart_metrics()

    def flat_parameters(self) -> Tensor:
        """A new flat float32 CPU vector with all parameters, for publication."""
        return flattened(self.model.network)

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
            sums += torch.stack([value.detach() for value in part_sums])
            statistics += part_statistics
            filter_sums += part_filter_sums
        return sums, statistics, filter_sums

    def _losses(self, unroll: Unroll[Tensor]) -> tuple[Tensor, Sums[Tensor], Tensor, Tensor]:
        """Loss to be minimised, its parts, PopArt's statistics and the filter's sums, of some slots."""
        config, model, distribution = self.config, self.model, self._distribution
        steps = aligned(unroll)
        inputs = network_input(unroll, steps.first, steps.previous_actions, self.spec)
        with self.precision.autocast(self.device):
            output: NetworkOutput = model.network(inputs, unroll.core_state)
        normalized, values = model.values_of(output.values, unroll.task_id)
        logits = output.logits[:-1]
        log_probs = distribution.log_probs(logits, steps.actions)
        log_rhos = log_probs.detach() - distribution.log_probs(steps.behaviour_logits, steps.actions)
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
            # In float64, which makes that of all sums: float32 counts to 2**24.
            env_steps=torch.full((), steps.mask.numel(), dtype=torch.float64, device=self.device),
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

    def state(self) -> LearnerState:
        """Copies of everything that the next update depends on."""
        values: dict[str, Any] = {"env_steps": self.env_steps, "updates": self.updates}
        return LearnerState(tensors=self.model.state(), values=values)

    def load_state(self, state: LearnerState) -> None:
        """Continue from ``state`` bit for bit.

        Raises:
            UserError: the state belongs to another network.
        """
        self.model.load_state(state.tensors)
        self.env_steps = state.values["env_steps"]
        self.updates = state.values["updates"]

    def load_initial(self, tensors: Mapping[str, Tensor], with_value: bool) -> None:
        """Start from another run's model; see ``TrainedNetwork.load_initial``."""
        self.model.load_initial(tensors, with_value)


def make_optimizer(config: ImpalaConfig, parameters: Iterable[Tensor]) -> Optimizer:
    """The optimiser asked for."""
    if config.optimizer == "adam":
        # Fused: 0.8 ms instead of 5.1 for 700,000 weights on one core, out of 40 ms for a small update.
        return Adam(parameters, lr=config.learning_rate, eps=config.adam_epsilon, fused=True)
    return RMSPropTF(
        parameters, config.learning_rate, config.rmsprop_decay, config.rmsprop_epsilon, config.rmsprop_momentum
    )


def weighted_loss(sums: Sums[Number], config: ImpalaConfig) -> Number:
    """What is minimised: policy gradient, value error and entropy bonus with their weights."""
    return sums.policy_loss + config.baseline_cost * sums.value_loss + config.entropy_cost * sums.entropy_loss


def _metrics(sums: Sums[float], config: ImpalaConfig) -> dict[str, float]:
    """What is shown of an update: the losses as sums, as they are minimised; the rest as means over steps."""
    steps = max(sums.steps, 1.0)
    variance = sums.squared_targets / steps - (sums.targets / steps) ** 2
    error_variance = sums.squared_errors / steps - (sums.errors / steps) ** 2
    return {
        "learner/total_loss": weighted_loss(sums, config),
        "learner/policy_loss": sums.policy_loss,
        "learner/baseline_loss": config.baseline_cost * sums.value_loss,
        "learner/entropy": -sums.entropy_loss / steps,
        "learner/rho": sums.rhos / steps,
        "learner/rho_clipped_share": sums.clipped_rhos / steps,
        "learner/explained_variance": 1 - error_variance / variance if variance > 1e-12 else 0.0,
    }
