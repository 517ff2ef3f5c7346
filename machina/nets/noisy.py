"""Dense layers whose weights are noisy (NoisyNet, arXiv 1706.10295)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

INDEPENDENT_SIGMA = 0.017
"""Start of every weight's deviation with independent noise (section 3.2)."""


class NoisyLinear(nn.Module):
    """``y = (mu_w + sigma_w * e_w) x + mu_b + sigma_b * e_b`` with noise that stays the same until it is redrawn.

    The noise is no parameter and is not saved: learners and actors draw their own.

    Args:
        inputs: p.
        outputs: q.
        kind: factorised draws p + q numbers and multiplies them, independent one number for each weight.
        sigma0: factorised noise starts with a deviation of ``sigma0 / sqrt(p)``.
    """

    def __init__(self, inputs: int, outputs: int, kind: Literal["factorised", "independent"], sigma0: float) -> None:
        super().__init__()
        self.kind = kind
        bound = math.sqrt((1 if kind == "factorised" else 3) / inputs)
        deviation = sigma0 / math.sqrt(inputs) if kind == "factorised" else INDEPENDENT_SIGMA
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.weight_deviation = nn.Parameter(torch.full((outputs, inputs), deviation))
        self.bias_deviation = nn.Parameter(torch.full((outputs,), deviation))
        self._noise: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def redraw(self, generator: torch.Generator) -> None:
        """Draw all noise anew, on the CPU, so that every device gets the same."""
        outputs, inputs = self.weight.shape
        if self.kind == "factorised":
            of_inputs, of_outputs = (_signed_root(torch.randn(size, generator=generator)) for size in (inputs, outputs))
            weight, bias = torch.outer(of_outputs, of_inputs), of_outputs
        else:
            weight = torch.randn(outputs, inputs, generator=generator)
            bias = torch.randn(outputs, generator=generator)
        self._noise = (weight.to(self.weight.device), bias.to(self.weight.device))

    def quiet(self) -> None:
        """No noise from now on."""
        self._noise = None

    def forward(self, features: Tensor) -> Tensor:
        """``[..., p]`` to ``[..., q]``."""
        if self._noise is None:
            return functional.linear(features, self.weight, self.bias)
        of_weight, of_bias = self._noise
        weight = self.weight + self.weight_deviation * of_weight
        return functional.linear(features, weight, self.bias + self.bias_deviation * of_bias)


def redraw(network: nn.Module, generator: torch.Generator) -> None:
    """Draw the noise of all noisy layers anew, in their order."""
    for layer in network.modules():
        if isinstance(layer, NoisyLinear):
            layer.redraw(generator)


def quiet(network: nn.Module) -> None:
    """Take the noise from all noisy layers."""
    for layer in network.modules():
        if isinstance(layer, NoisyLinear):
            layer.quiet()


def _signed_root(noise: Tensor) -> Tensor:
    return noise.sign() * noise.abs().sqrt()
