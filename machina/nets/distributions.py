"""Distributions over actions, made from what a network's policy head returns.

Parameters are ``[..., P]`` float32, actions ``[..., *action.shape]``; leading axes are time and slots. Sampling takes
one uniform number per number of the action and inverts the cumulative distribution: a slot's actions depend on its own
random stream alone, however slots are grouped.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from machina.specs import ActionSpec

LOG_2PI = math.log(2 * math.pi)

FORBIDDEN = -1e9
"""Logit of an action that the mask forbids; finite, so that nothing turns into NaN where all are forbidden."""

LEAST_UNIFORM = 1e-6
"""Uniform numbers are kept off 0 and 1, where a Gaussian's inverse is infinite; cuts at 4.75 deviations."""


class Distribution(Protocol):
    """A family of distributions over one kind of action."""

    def log_probs(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Log-probability, or log-density, of each action, ``[...]``."""
        ...

    def entropies(self, parameters: Tensor) -> Tensor:
        """In nats, ``[...]``."""
        ...

    def sampled(self, parameters: Tensor, uniforms: Tensor) -> Tensor:
        """An action each, from ``uniforms`` ``[..., *action.shape]`` in [0, 1)."""
        ...


class Categorical:
    """One choice; the parameters are logits."""

    def log_probs(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """``[...]`` for actions ``[...]``; ``NO_ACTION``, which is never counted, is read as 0."""
        return torch.log_softmax(parameters, dim=-1).gather(-1, actions.clamp(min=0).unsqueeze(-1)).squeeze(-1)

    def entropies(self, parameters: Tensor) -> Tensor:
        """``[...]``."""
        log_probs = torch.log_softmax(parameters, dim=-1)
        return -(log_probs.exp() * log_probs).sum(dim=-1)

    def sampled(self, parameters: Tensor, uniforms: Tensor) -> Tensor:
        """The first action whose cumulative probability exceeds the uniform number."""
        # In float32 the last sum may be rounded to less than a uniform number close to 1, or sums over actions of
        # probability 0 may differ on a GPU; either would once in a long run pick an action that the mask forbids.
        cumulative = torch.softmax(parameters, dim=-1).to(torch.float64).cumsum(dim=-1)
        return (cumulative <= uniforms.unsqueeze(-1) * cumulative[..., -1:]).sum(dim=-1)


class MultiCategorical:
    """Several independent choices; the parameters are the logits of all, one after the other."""

    def __init__(self, choices: tuple[int, ...]) -> None:
        self._choices = list(choices)
        self._single = Categorical()

    def log_probs(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """``[...]`` for actions ``[..., K]``: the sum over the components."""
        pairs = zip(torch.split(parameters, self._choices, dim=-1), actions.unbind(-1), strict=True)
        return torch.stack([self._single.log_probs(logits, chosen) for logits, chosen in pairs]).sum(dim=0)

    def entropies(self, parameters: Tensor) -> Tensor:
        """``[...]``: the sum over the components."""
        return torch.stack(
            [self._single.entropies(logits) for logits in torch.split(parameters, self._choices, dim=-1)]
        ).sum(dim=0)

    def sampled(self, parameters: Tensor, uniforms: Tensor) -> Tensor:
        """``[..., K]``."""
        pairs = zip(torch.split(parameters, self._choices, dim=-1), uniforms.unbind(-1), strict=True)
        return torch.stack([self._single.sampled(logits, number) for logits, number in pairs], dim=-1)


class Gaussian:
    """Independent normal numbers; the parameters are the means and the logarithms of the deviations.

    Samples are not bounded; the environment's adapter clips them. The log-density is that of the sample before.
    """

    def log_probs(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """``[...]`` for actions ``[..., D]``."""
        mean, log_deviation = parameters.chunk(2, dim=-1)
        distances = (actions - mean) * (-log_deviation).exp()
        return (-0.5 * distances.square() - log_deviation - 0.5 * LOG_2PI).sum(dim=-1)

    def entropies(self, parameters: Tensor) -> Tensor:
        """``[...]``."""
        return (parameters.chunk(2, dim=-1)[1] + 0.5 * (LOG_2PI + 1)).sum(dim=-1)

    def sampled(self, parameters: Tensor, uniforms: Tensor) -> Tensor:
        """``[..., D]``."""
        mean, log_deviation = parameters.chunk(2, dim=-1)
        kept = uniforms.clamp(LEAST_UNIFORM, 1 - LEAST_UNIFORM)
        return mean + log_deviation.exp() * math.sqrt(2) * torch.erfinv(2 * kept - 1)


def distribution_of(action: ActionSpec) -> Distribution:
    """The family for a kind of action."""
    if action.kind == "discrete":
        return Categorical()
    return MultiCategorical(action.choices) if action.kind == "multi_discrete" else Gaussian()


def masked(logits: Tensor, allowed: Tensor) -> Tensor:
    """Logits with those of forbidden actions out of reach.

    Args:
        logits: ``[..., sum of choices]``.
        allowed: bool, of the same shape. Where it allows nothing, as off turn, all actions are equally likely.
    """
    return logits.masked_fill(~allowed, FORBIDDEN)
