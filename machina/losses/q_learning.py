"""Losses of action values, and the priorities that follow from them."""

from __future__ import annotations

import torch
from torch import Tensor

from machina.losses.checks import check_shapes


def huber(errors: Tensor) -> Tensor:
    """Half the square up to 1, linear beyond: the gradient of a squared error clipped to [-1, 1] (DQN)."""
    sizes = errors.abs()
    return torch.where(sizes <= 1, 0.5 * errors.square(), sizes - 0.5)


def values_of(q_values: Tensor, actions: Tensor) -> Tensor:
    """``[...]``: the values of ``actions`` ``[...]`` among ``[..., A]``; of actions below 0 those of action 0."""
    return q_values.gather(-1, actions.clamp(min=0).unsqueeze(-1)).squeeze(-1)


def margin_loss(q_values: Tensor, actions: Tensor, *, margin: float) -> Tensor:
    """``[...]``: how much the best of the other actions, with ``margin`` added, exceeds the one shown (DQfD,
    arXiv 1704.03732, equation 3).

    Args:
        q_values: ``[..., A]``.
        actions: ``[...]`` int64, shown by the demonstrator.
        margin: that the shown action is to be better by.
    """
    others = torch.full_like(q_values, margin).scatter(-1, actions.clamp(min=0).unsqueeze(-1), 0.0)
    return (q_values + others).amax(dim=-1) - values_of(q_values, actions)


@torch.no_grad()
def sequence_priorities(errors: Tensor, mask: Tensor, *, eta: float) -> Tensor:
    """``[B]``: ``eta max |error| + (1 - eta) mean |error|`` over the steps that count (R2D2, section 2.3).

    Args:
        errors: ``[T, B]``.
        mask: ``[T, B]`` bool; of a sequence without a step that counts the priority is 0.
        eta: weight of the largest error.

    Raises:
        ValueError: shapes do not fit.
    """
    check_shapes(2, errors=errors, mask=mask)
    sizes = torch.where(mask, errors.abs(), 0.0)
    return eta * sizes.amax(0) + (1 - eta) * sizes.sum(0) / mask.sum(0).clamp(min=1)
