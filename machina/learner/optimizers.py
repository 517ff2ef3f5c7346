"""Optimisers that PyTorch does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer


class RMSPropTF(Optimizer):
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
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        params = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not params:
            return
        grads = [parameter.grad for parameter in params]
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
