"""Optimizers that PyTorch does not have, or not in a form that is fast."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

LEAST_LENGTH = 5
"""Up to this length of the simple moving average the variance is unknown and the step is that of the momentum; 5 in
PyTorch, 4 in the paper.
"""


class _AllAtOnce(Optimizer, ABC):
    """An optimizer that steps over all parameters of a group in one pass after another."""

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step over every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [parameter for parameter in group["params"] if parameter.grad is not None]
            if params:
                self._step_parameters(group, params, [parameter.grad for parameter in params])
        return loss

    @abstractmethod
    def _step_parameters(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        """Move parameters that have gradients, with the options of their group."""


class RMSPropTF(_AllAtOnce):
    """RMSProp as TensorFlow 1 defines it, with which IMPALA's constants were found.

    ``torch.optim.RMSprop`` adds epsilon outside the root and starts its accumulator at 0. Here epsilon is inside
    and the accumulator starts at 1, so early steps are small rather than large, and IMPALA's epsilon 0.01 bounds
    the step at 10 times (not 100 times) the learning rate per unit of gradient::

        s <- decay s + (1 - decay) g^2
        m <- momentum m + lr g / sqrt(s + epsilon)
        w <- w - m
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, decay: float = 0.99, epsilon: float = 0.01, momentum: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "epsilon": epsilon, "momentum": momentum})
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["square_average"] = torch.ones_like(parameter)
                if momentum:
                    state["momentum"] = torch.zeros_like(parameter)

    def _step_parameters(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        averages = [self.state[parameter]["square_average"] for parameter in params]
        torch._foreach_mul_(averages, group["decay"])
        torch._foreach_addcmul_(averages, grads, grads, 1 - group["decay"])
        roots = torch._foreach_add(averages, group["epsilon"])
        torch._foreach_sqrt_(roots)
        if not group["momentum"]:
            torch._foreach_addcdiv_(params, grads, roots, -group["lr"])
            return
        moments = [self.state[parameter]["momentum"] for parameter in params]
        torch._foreach_mul_(moments, group["momentum"])
        torch._foreach_addcdiv_(moments, grads, roots, group["lr"])
        torch._foreach_sub_(params, moments)


class CentredRMSProp(_AllAtOnce):
    """RMSProp by the variance of the gradients instead of their squares, as published for DQN (DQN Zoo)::

        s <- decay s + (1 - decay) g^2
        m <- decay m + (1 - decay) g
        w <- w - lr g / sqrt(s - m^2 + epsilon)

    ``torch.optim.RMSprop`` adds epsilon outside the root, under which rounding may leave a negative number.

    Args:
        params: to train.
        lr: step size.
        decay: of both means.
        epsilon: under the root.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, decay: float, epsilon: float) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "epsilon": epsilon})
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["square_average"] = torch.zeros_like(parameter)
                self.state[parameter]["average"] = torch.zeros_like(parameter)

    def _step_parameters(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        squares = [self.state[parameter]["square_average"] for parameter in params]
        means = [self.state[parameter]["average"] for parameter in params]
        rest = 1 - group["decay"]
        torch._foreach_mul_(squares, group["decay"])
        torch._foreach_addcmul_(squares, grads, grads, rest)
        torch._foreach_lerp_(means, grads, rest)
        roots = torch._foreach_addcmul(squares, means, means, -1)
        torch._foreach_clamp_min_(roots, 0.0)
        torch._foreach_add_(roots, group["epsilon"])
        torch._foreach_sqrt_(roots)
        torch._foreach_addcdiv_(params, grads, roots, -group["lr"])


class FusedRAdam(Adam):
    """RAdam (arXiv 1908.03265, algorithm 2): Adam, rectified while its estimate of the variance is of few steps.

    The same numbers as ``torch.optim.RAdam``, to rounding, by the kernel of its Adam: on a CPU 1.7M weights take a
    fifteenth of the time. Steps are counted from the first parameter's first gradient.

    Args:
        params: to train.
        lr: step size.
    """

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        super().__init__(params, lr=lr, fused=True)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step over every parameter that has a gradient."""
        (group,) = self.param_groups
        rate, epsilon = group["lr"], group["eps"]
        beta, beta_of_squares = group["betas"]
        counts = [state["step"] for state in self.state.values() if state]
        steps = 1 + int(torch.stack(counts).max()) if counts else 1  # one transfer from a GPU
        unbiased = 1 - beta_of_squares**steps
        longest = 2 / (1 - beta_of_squares) - 1
        length = longest - 2 * steps * beta_of_squares**steps / unbiased
        if length > LEAST_LENGTH:
            known = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            # Adam adds epsilon to the unbiased root, RAdam to the biased one.
            group["lr"], group["eps"] = rate * math.sqrt(known), epsilon / math.sqrt(unbiased)
        else:
            group["lr"] = 0.0  # the kernel brings the moments up to date
        loss: float | None = super().step(closure)
        group["lr"], group["eps"] = rate, epsilon
        if length <= LEAST_LENGTH:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            moments = [self.state[parameter]["exp_avg"] for parameter in moved]
            torch._foreach_add_(moved, moments, alpha=-rate / (1 - beta**steps))
        return loss
