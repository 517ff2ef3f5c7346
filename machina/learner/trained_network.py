"""What a learner trains: network, optimizer, PopArt's and the observation filter's statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from machina.errors import UserError
from machina.interfaces import Ranks
from machina.learner.filter_statistics import FilterStatistics
from machina.learner.popart import PopArt, rescale_head
from machina.nets.network import Network, NetworkInput, PolicyNetwork
from machina.nets.parameters import FILTER, POPART, check_alike, check_names, load_tensors
from machina.specs import EnvSpec

VALUE_HEAD = "value_head."

N = TypeVar("N", bound=Network[Any])
Tensors = dict[str, Tensor]

_OF_ADAM = dict.fromkeys(("step", "exp_avg", "exp_avg_sq")).keys()
"""What Adam knows of a parameter once it has a gradient; before it knows nothing."""

_NEVER_NEGATIVE = ("step", "exp_avg_sq", "square_average")
"""Parts of an optimizer's state: counters and means of squares."""


class TrainedNetwork(Generic[N]):
    """The tensors that change from update to update, on one of several learner ranks.

    Args:
        spec: of the environment.
        network: float32, on the CPU; equal on all ranks.
        observation_filter: whether the network's filter gets the statistics of what is learned from.
        make_optimizer: from the parameters that are trained.
        popart: the statistics of the value targets, or None.
        device: of everything.
        ranks: that share every batch.
    """

    def __init__(
        self,
        spec: EnvSpec,
        network: N,
        observation_filter: bool,
        make_optimizer: Callable[[Iterable[Tensor]], Optimizer],
        popart: PopArt | None,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.spec = spec
        self.device = device
        self.ranks = ranks
        self.popart = popart
        self.network: N = network.to(device)
        self.trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(self.trained)
        self.filter: FilterStatistics | None = None
        if observation_filter:
            self.filter = FilterStatistics(spec, device)

    # One step

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.trained:  # the optimizer's own method takes five times as long to do this
            parameter.grad = None

    @torch.no_grad()
    def add_up_over_ranks(self, others: Sequence[Tensor]) -> None:
        """Turn the gradients, and the tensors ``others``, of this rank's slots into those of the whole batch, in place.

        A parameter that has a gradient on some ranks only counts as zero on the others. One that has none anywhere
        keeps none: the optimizer then passes it by, as on a single rank.

        Raises:
            RanksBrokenError: another rank is gone.
        """
        if self.ranks.size == 1:
            return
        present = [parameter.grad is not None for parameter in self.trained]
        counts = torch.tensor(present, dtype=torch.float64, device=self.device)
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in self.trained]
        self.ranks.add_up([*gradients, *others, counts])
        for parameter, gradient, count in zip(self.trained, gradients, counts.tolist(), strict=True):
            parameter.grad = gradient if count else None

    def grad_norm(self) -> Tensor:
        """Of all gradients together."""
        return torch.nn.utils.get_total_norm([each.grad for each in self.trained if each.grad is not None])

    def step(self, learning_rate: float, max_grad_norm: float, grad_norm: float) -> None:
        """Cut the gradients' norm, which is ``grad_norm``, to ``max_grad_norm`` and let the optimizer step."""
        # Multiplying by 1 would be another pass over all of them.
        if grad_norm > max_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(self.trained, max_grad_norm, torch.tensor(grad_norm))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()

    # Statistics

    def values_of(self, values: Tensor, task_id: Tensor) -> tuple[Tensor, Tensor]:
        """Each slot's own value, as the head of its task gives it, and in units of the rewards without gradient.

        Args:
            values: ``[T, B, num_tasks]``.
            task_id: ``[B]``.
        """
        if self.spec.num_tasks == 1:
            own = values.squeeze(-1)
        else:
            own = values.gather(-1, task_id.expand(values.shape[:2]).unsqueeze(-1)).squeeze(-1)
        plain = own.detach()
        return own, plain if self.popart is None else self.popart.unnormalized(plain, task_id)

    def new_filter_sums(self) -> Tensor:
        """What ``filter_sums`` of the parts of a batch are added to; empty without a filter."""
        return torch.zeros(0 if self.filter is None else self.filter.num_sums, dtype=torch.float64, device=self.device)

    def filter_sums(self, inputs: NetworkInput, mask: Tensor) -> Tensor:
        """What the filter needs of the entries 0 to T - 1, each of which is counted in one unroll only.

        Args:
            inputs: of T + 1 entries.
            mask: ``[T, B]`` bool, the steps that count.
        """
        if self.filter is None:
            return self.new_filter_sums()
        observation = {key: tensor[:-1].flatten(0, 1) for key, tensor in inputs.observation.items()}
        return self.filter.sums(observation, mask.flatten())

    def update_filter(self, sums: Tensor) -> None:
        """Merge the sums of a whole batch, and have the network use them from now on."""
        if self.filter is not None:
            self.filter.update(sums)
            self.filter.write(self.network)

    def popart_metrics(self) -> dict[str, float]:
        """Mean and scale of every task's value targets."""
        if self.popart is None:
            return {}
        mu, sigma = torch.stack([self.popart.mu, self.popart.sigma]).tolist()
        tasks = self.spec.tasks
        return {f"popart/mu/{task}": value for task, value in zip(tasks, mu, strict=True)} | {
            f"popart/sigma/{task}": value for task, value in zip(tasks, sigma, strict=True)
        }

    # Saving and restoring

    def state(self) -> dict[str, Tensors]:
        """Copies of everything that the next update depends on: "model" and "optimizer"."""
        model = {name: _copy(parameter) for name, parameter in self.network.named_parameters()}
        if self.popart is not None:
            model |= {POPART + name: tensor for name, tensor in self.popart.state().items()}
        if self.filter is not None:
            model |= {FILTER + name: tensor for name, tensor in self.filter.state().items()}
        optimizer = {
            f"{name}.{key}": _copy(tensor)
            for name, parameter in self.network.named_parameters()
            if parameter.requires_grad
            # A look into the optimizer's own dictionary would add what is not there.
            for key, tensor in self.optimizer.state.get(parameter, {}).items()
        }
        return {"model": model, "optimizer": optimizer}

    def load_state(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue from ``state`` bit for bit.

        Raises:
            UserError: the state belongs to another network.
        """
        if tensors.keys() != {"model", "optimizer"}:
            raise UserError(
                f"checkpoint: tensors of {sorted(tensors)}, expected model, optimizer; use another checkpoint"
            )
        model = tensors["model"]
        parameters = dict(self.network.named_parameters())
        check_names(model, self.state()["model"])
        load_tensors(self.network, model)
        for name, parameter in parameters.items():
            check_alike(f"parameter {name!r}", model[name], parameter)
        if self.popart is not None:
            self.popart.load_state(_part(model, POPART))
        if self.filter is not None:
            self.filter.load_state(_part(model, FILTER))
        self._load_optimizer(parameters, tensors["optimizer"])

    def _load_optimizer(self, parameters: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
        trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        own: dict[str, Tensors] = {name: {} for name in trained}
        for full_name, tensor in saved.items():
            name, _, key = full_name.rpartition(".")
            check_names([name], trained)
            check_alike(f"the optimizer's {full_name!r}", tensor, torch.zeros(()) if key == "step" else trained[name])
            if key in _NEVER_NEGATIVE and (tensor < 0).any():
                raise UserError(f"checkpoint: the optimizer's {full_name!r} is negative; use another checkpoint")
            own[name][key] = tensor
        late = _OF_ADAM if isinstance(self.optimizer, Adam) else None
        for name, parameter in trained.items():
            expected = self.optimizer.state[parameter].keys() if late is None else late
            if own[name].keys() != expected and (own[name] or late is None):
                raise UserError(
                    f"checkpoint: the optimizer's state of {name!r} is {', '.join(own[name]) or 'empty'}, this one "
                    f"needs {', '.join(expected)}; the optimizer's options must equal the run's"
                )
            self.optimizer.state[parameter] = {
                key: self._restored(tensor, parameter) for key, tensor in own[name].items()
            }

    def _restored(self, tensor: Tensor, parameter: Tensor) -> Tensor:
        """An optimizer tensor in its parameter's memory layout; Adam's counter where a new one would be.

        Other counters than a fused Adam's are read on the CPU at every step.
        """
        if tensor.ndim == 0:
            return tensor.to(parameter.device if self.optimizer.defaults.get("fused") else "cpu", copy=True)
        restored = torch.empty_like(parameter)
        restored.copy_(tensor)
        return restored.detach()

    def load_initial(self, tensors: Mapping[str, Tensor], with_value: bool) -> None:
        """Start from another run's model; optimizer and counters stay new.

        Args:
            tensors: "model" of that run's state.
            with_value: take the value heads and PopArt's statistics as well.

        Raises:
            UserError: the tensors belong to another network.
        """
        own = {name for name, _ in self.network.named_parameters()}
        kept_apart = (POPART,) if self.filter is None else (POPART, FILTER)
        if foreign := [name for name in tensors if name not in own and not name.startswith(kept_apart)]:
            raise UserError(
                f"init_from: this network has nothing called {foreign[0]!r}; its options must equal the other run's"
            )
        load_tensors(self.network, tensors, skip=() if with_value else (VALUE_HEAD,))
        if self.filter is not None:
            self.filter.load_state(_part(tensors, FILTER))
        if not with_value:
            return
        source = PopArt(self.spec.num_tasks, device=self.device)
        if POPART + "mu" in tensors:
            source.load_state(_part(tensors, POPART))
        if self.popart is not None:
            self.popart.load_state(source.state())
            return
        if not isinstance(self.network, PolicyNetwork):
            return
        # Without PopArt here the heads must predict in units of the rewards.
        mu, sigma = torch.zeros_like(source.mu), torch.ones_like(source.mu)
        rescale_head(self.network.value_head, source.mu, source.sigma, mu, sigma)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> Tensors:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
