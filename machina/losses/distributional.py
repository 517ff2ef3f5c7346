"""Distributions of returns on fixed atoms (C51, arXiv 1707.06887)."""

from __future__ import annotations

import torch
from torch import Tensor

from machina.losses.checks import check_shapes


@torch.no_grad()
def projected(probabilities: Tensor, returns: Tensor, discounts: Tensor, support: Tensor) -> Tensor:
    """``[B, atoms]``: the distribution of ``returns + discounts * Z`` on the atoms of Z (algorithm 1).

    What falls between two atoms is divided between them by nearness, what falls beyond the ends goes to the ends.

    Args:
        probabilities: ``[B, atoms]`` of Z.
        returns: ``[B]``.
        discounts: ``[B]``.
        support: ``[atoms]``, evenly spaced.

    Raises:
        ValueError: shapes do not fit.
    """
    check_shapes(1, returns=returns, discounts=discounts)
    low, high, width = support[0], support[-1], support[1] - support[0]
    moved = (returns[:, None] + discounts[:, None] * support).clamp(low, high)
    # [B, to, from]: 1 at the atom itself, falling to 0 at its neighbours.
    nearness = (1 - (moved[:, None, :] - support[:, None]).abs() / width).clamp(min=0)
    return (nearness * probabilities[:, None, :]).sum(-1)


def cross_entropies(target: Tensor, logits: Tensor) -> Tensor:
    """``[B]``: of predicted distributions, given as logits ``[B, atoms]``, from ``target`` ``[B, atoms]``."""
    losses: Tensor = -(target * logits.log_softmax(dim=-1)).sum(dim=-1)
    return losses


@torch.no_grad()
def divergences(target: Tensor, logits: Tensor) -> Tensor:
    """``[B]``: Kullback-Leibler divergences, by which Rainbow gives priorities (arXiv 1710.02298, section 4)."""
    entropies = -torch.special.xlogy(target, target).sum(dim=-1)
    found: Tensor = (cross_entropies(target, logits) - entropies).clamp(min=0)
    return found
