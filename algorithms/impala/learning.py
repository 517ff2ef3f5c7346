"""IMPALA's learner: one update from a batch of unrolls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from machina.algorithms.impala.config import ImpalaConfig
from machina.algorithms.impala.networks import flattened, load_tensors, make_network
from machina.interfaces import LearnerState, Ranks
from machina.losses.actor_critic import action_log_probs, entropy_loss, policy_gradient_loss, value_loss
from machina.losses.alignment import Steps, aligned
from machina.losses.vtrace import vtrace
from machina.nets.frames import stacked_frames
from machina.nets.network import NetworkInput, NetworkOutput
from machina.nets.optimizers import RMSPropTF
from machina.nets.popart import PopArt, rescale_head
from machina.nets.precision import resolve_device, resolve_precision
from machina.specs import EnvSpec
from machina.types import OBSERVATION, Array, Unroll

CPU_CHUNK_ENTRIES = 256
"""Entries that go through the network at once on a CPU; more fall out of its caches (measured: 2,450 entries/s at
250, 2,220 at 500, 1,990 at 670, one thread, shallow net)."""

VALUE_HEAD = "value_head."
POPART = "popart."


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
        self.ranks = ranks
        self.spec = spec
        self.total_env_steps = total_env_steps
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        self.network = make_network(config, spec, self.device, seed)
        self.optimizer = make_optimizer(config, self.network.parameters())
        self.popart: PopArt | None = None
        if config.popart:
            self.popart = PopArt(
                spec.num_tasks, config.popart_beta, config.popart_sigma_min, config.popart_sigma_max, self.device
            )
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
        unroll = self._to_device(batch)
        learning_rate = self.learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        sums, statistics = self._accumulate_gradients(unroll)
        if self.ranks.size > 1:
            self._add_up_over_ranks(sums, statistics)
        gradients = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
        grad_norm = torch.nn.utils.get_total_norm(gradients)
        # The only wait for the device before the step: everything that is shown comes in one transfer.
        *numbers, norm = torch.cat([sums, grad_norm.to(sums)[None]]).tolist()
        totals = Sums(*numbers)
        metrics = _metrics(totals, self.config)
        metrics["learner/grad_norm"] = norm
        metrics["learner/learning_rate"] = learning_rate
        finite = math.isfinite(metrics["learner/total_loss"]) and math.isfinite(norm)
        metrics["learner/skipped"] = 0.0 if finite else 1.0
        if finite:
            torch.nn.utils.clip_grads_with_norm_(self.network.parameters(), self.config.max_grad_norm, grad_norm)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
            if self.popart is not None:
                self.popart.update(statistics, self.network.value_head)
        self.env_steps += int(totals.env_steps)
        self.updates += 1
        return metrics | self._popart_metrics()

    def flat_parameters(self) -> Tensor:
        """A new flat float32 CPU vector with all parameters, for publication."""
        return flattened(self.network)

    def _to_device(self, batch: Unroll[Array]) -> Unroll[Tensor]:
        def move(array: Array) -> Tensor:
            return torch.as_tensor(array).to(self.device, non_blocking=True)

        fields = {name: value for name, value in batch._asdict().items() if name not in ("observation", "core_state")}
        return Unroll(
            observation={key: move(array) for key, array in batch.observation.items()},
            core_state=tuple(move(array) for array in batch.core_state),
            **{name: move(array) for name, array in fields.items()},
        )

    def _accumulate_gradients(self, unroll: Unroll[Tensor]) -> tuple[Tensor, Tensor]:
        """Backward over all slots; the fields of ``Sums`` as a float64 vector, and PopArt's ``[3, num_tasks]``."""
        entries, num_slots = unroll.reward.shape
        chunk = max(1, num_slots if self.device.type != "cpu" else CPU_CHUNK_ENTRIES // entries)
        sums = torch.zeros(len(Sums._fields), dtype=torch.float64, device=self.device)
        statistics = torch.zeros(3, self.spec.num_tasks, dtype=torch.float64, device=self.device)
        for start in range(0, num_slots, chunk):
            part = _slots(unroll, slice(start, start + chunk))
            loss, part_sums, part_statistics = self._losses(part)
            loss.backward()  # type: ignore[no-untyped-call]
            sums += torch.stack([value.detach() for value in part_sums]).to(sums)
            statistics += part_statistics
        return sums, statistics

    @torch.no_grad()
    def _add_up_over_ranks(self, sums: Tensor, statistics: Tensor) -> None:
        """Turn gradients, sums and statistics of this rank's slots into those of the whole batch, in place.

        A parameter that has a gradient on some ranks only counts as zero on the others. One that has none anywhere
        keeps none: the optimiser then passes it by, as on a single rank.
        """
        parameters = list(self.network.parameters())
        present = [parameter.grad is not None for parameter in parameters]
        counts = torch.tensor(present, dtype=torch.float64, device=self.device)
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        self.ranks.add_up([*gradients, sums, statistics, counts])
        for parameter, gradient, count in zip(parameters, gradients, counts.tolist(), strict=True):
            parameter.grad = gradient if count else None

    def _losses(self, unroll: Unroll[Tensor]) -> tuple[Tensor, Sums[Tensor], Tensor]:
        """Loss to be minimised, its parts, and PopArt's statistics, of some slots."""
        config = self.config
        steps = aligned(unroll, config.gamma)
        output = self._forward(unroll, steps)
        normalized = output.values.gather(-1, unroll.task_id.expand(output.values.shape[:2]).unsqueeze(-1)).squeeze(-1)
        values = normalized.detach()
        if self.popart is not None:
            values = self.popart.unnormalized(values, unroll.task_id)
        logits = output.logits[:-1]
        behaviour = action_log_probs(steps.behaviour_logits, steps.actions)
        log_rhos = action_log_probs(logits.detach(), steps.actions) - behaviour
        rewards = steps.rewards.clamp(-1, 1) if config.reward_clip == "clip" else steps.rewards
        vs, pg_advantages = vtrace(
            log_rhos,
            steps.discounts,
            rewards,
            values[:-1],
            values[-1],
            steps.mask,
            rho_clip=config.rho_clip,
            c_clip=config.c_clip,
            pg_rho_clip=config.pg_rho_clip,
            lambda_=config.vtrace_lambda,
        )
        statistics = torch.zeros(3, self.spec.num_tasks, dtype=torch.float64, device=self.device)
        targets = vs
        if self.popart is not None:
            statistics = self.popart.statistics(vs, unroll.task_id, steps.mask)
            targets = self.popart.normalized(vs, unroll.task_id)
            pg_advantages = (pg_advantages / self.popart.sigma[unroll.task_id]).float()

        def total(per_step: Tensor) -> Tensor:
            return torch.where(steps.mask, per_step, 0.0).sum()

        rhos = log_rhos.exp()
        errors = targets - normalized[:-1].detach()
        sums = Sums(
            env_steps=torch.full((), steps.mask.numel(), device=self.device),
            policy_loss=total(policy_gradient_loss(logits, steps.actions, pg_advantages)),
            value_loss=total(value_loss(normalized[:-1], targets)),
            entropy_loss=total(entropy_loss(logits)),
            steps=steps.mask.sum(),
            rhos=total(rhos),
            clipped_rhos=total((rhos > config.rho_clip).to(rhos)),
            targets=total(targets),
            squared_targets=total(targets.square()),
            errors=total(errors),
            squared_errors=total(errors.square()),
        )
        return weighted_loss(sums, config), sums, statistics

    def _forward(self, unroll: Unroll[Tensor], steps: Steps) -> NetworkOutput:
        """The network's answers to all T + 1 entries; of the last one only the value is used."""
        observation = dict(unroll.observation)
        if self.spec.stores_frames_once:
            observation[OBSERVATION] = stacked_frames(observation[OBSERVATION], steps.first)
        inputs = NetworkInput(observation, unroll.reward, steps.previous_actions, steps.first)
        with self.precision.autocast(self.device):
            output: NetworkOutput = self.network(inputs, unroll.core_state)
        return output

    def _popart_metrics(self) -> dict[str, float]:
        if self.popart is None:
            return {}
        mu, sigma = torch.stack([self.popart.mu, self.popart.sigma]).tolist()
        tasks = self.spec.tasks
        return {f"popart/mu/{task}": value for task, value in zip(tasks, mu, strict=True)} | {
            f"popart/sigma/{task}": value for task, value in zip(tasks, sigma, strict=True)
        }

    def state(self) -> LearnerState:
        """Copies of everything that the next update depends on."""
        model = {name: _copy(parameter) for name, parameter in self.network.named_parameters()}
        if self.popart is not None:
            model |= {POPART + name: tensor for name, tensor in self.popart.state().items()}
        optimizer = {
            f"{name}.{key}": _copy(tensor)
            for name, parameter in self.network.named_parameters()
            for key, tensor in self.optimizer.state[parameter].items()
        }
        values: dict[str, Any] = {"env_steps": self.env_steps, "updates": self.updates}
        return LearnerState(tensors={"model": model, "optimizer": optimizer}, values=values)

    def load_state(self, state: LearnerState) -> None:
        """Continue from ``state`` bit for bit.

        Raises:
            UserError: the state belongs to another network.
        """
        model = state.tensors["model"]
        load_tensors(self.network, model)
        if self.popart is not None:
            self.popart.load_state({name: model[POPART + name] for name in ("mu", "nu")})
        saved = state.tensors["optimizer"]
        for name, parameter in self.network.named_parameters():
            self.optimizer.state[parameter] = {
                key.removeprefix(f"{name}."): _restored(tensor, parameter)
                for key, tensor in saved.items()
                if key.rpartition(".")[0] == name
            }
        self.env_steps = state.values["env_steps"]
        self.updates = state.values["updates"]

    def load_initial(self, tensors: Mapping[str, Tensor], with_value: bool) -> None:
        """Start from another run's model; optimiser and counters stay new.

        Args:
            tensors: "model" of that run's state.
            with_value: take the value heads and PopArt's statistics as well.

        Raises:
            UserError: the tensors belong to another network.
        """
        load_tensors(self.network, tensors, skip=() if with_value else (VALUE_HEAD,))
        if not with_value:
            return
        source = PopArt(self.spec.num_tasks, device=self.device)
        if POPART + "mu" in tensors:
            source.load_state({name: tensors[POPART + name] for name in ("mu", "nu")})
        if self.popart is not None:
            self.popart.load_state(source.state())
            return
        # Without PopArt here the heads must answer in units of the rewards.
        mu, sigma = torch.zeros_like(source.mu), torch.ones_like(source.mu)
        rescale_head(self.network.value_head, source.mu, source.sigma, mu, sigma)


def make_optimizer(config: ImpalaConfig, parameters: Any) -> Optimizer:
    """The optimiser asked for."""
    if config.optimizer == "adam":
        # Fused: 0.8 ms instead of 5.1 for 700,000 weights on one core, out of 40 ms for a small update.
        return Adam(parameters, lr=config.learning_rate, eps=config.adam_epsilon, fused=True)
    return RMSPropTF(
        parameters, config.learning_rate, config.rmsprop_decay, config.rmsprop_epsilon, config.rmsprop_momentum
    )


def _slots(unroll: Unroll[Tensor], slots: slice) -> Unroll[Tensor]:
    """Some slots of an unroll; views."""
    per_slot = ("core_state", "previous_action", "task_id", "slot", "policy_version")
    fields = {
        name: value[slots] if name in per_slot else value[:, slots]
        for name, value in unroll._asdict().items()
        if name not in ("observation", "core_state")
    }
    return Unroll(
        observation={key: tensor[:, slots] for key, tensor in unroll.observation.items()},
        core_state=tuple(tensor[slots] for tensor in unroll.core_state),
        **fields,
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


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _restored(tensor: Tensor, parameter: Tensor) -> Tensor:
    """An optimiser tensor on its parameter's device, in its memory layout unless it is Adam's scalar counter."""
    if tensor.ndim == 0:
        return tensor.to(parameter.device, copy=True)
    restored = torch.empty_like(parameter)
    restored.copy_(tensor)
    return restored.detach()
