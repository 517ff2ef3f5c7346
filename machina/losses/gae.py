"""Generalized advantage estimation (arXiv 1506.02438)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from machina.losses.turns import accumulated, own_turns


class GAEReturns(NamedTuple):
    """Targets, without gradient."""

    advantages: Tensor
    """``[T, B]``: equation 16 of the paper, cut at the end of the unroll; 0 for masked steps and off turn."""
    targets: Tensor
    """``[T, B]``: of the values, the TD(lambda) returns; a masked step's is its own value."""


@torch.no_grad()
def gae(
    rewards: Tensor,
    continues: Tensor,
    values: Tensor,
    bootstrap_value: Tensor,
    mask: Tensor,
    gamma: float,
    lambda_: float,
    on_turn: Tensor | None = None,
) -> GAEReturns:
    """Advantages by the backward recursion over own turns, as ``machina.losses.turns`` defines them.

    With delta_t = r_t + discount_t V(x_{t+1}) - V(x_t)::

        A_t = delta_t + lambda discount_t A_{t+1}

    Off turn delta_t is 0 and lambda is 1, as lambda counts own turns too: A of the next own turn passes unchanged. It
    is part of the value target there, but no advantage: the action was ignored, the caller must not count it.

    A masked step has A = 0. As one follows each episode end, the step that a limit cut bootstraps from V(final
    observation), and nothing looks past an end into the next episode.

    Args:
        rewards: ``[T, B]``.
        continues: ``[T, B]``, 0 where the task ended or a life was lost, else 1.
        values: ``[T, B]``, V(x_t), unnormalized.
        bootstrap_value: ``[B]``, V(x_T).
        mask: ``[T, B]`` bool, False for steps that are no transitions.
        gamma: discount per own turn.
        lambda_: 0 trusts the values most, 1 not at all.
        on_turn: ``[T, B]`` bool; None where all agents always are.

    Raises:
        ValueError: shapes differ.
    """
    turns = own_turns(rewards, continues, values, bootstrap_value, mask, on_turn, gamma)
    deltas = turns.rewards + turns.discounts * turns.next_values - turns.values
    traces = lambda_ * turns.discounts
    if on_turn is not None:
        traces = torch.where(on_turn, traces, turns.discounts)
    corrections = accumulated(
        torch.where(mask, deltas, 0.0), torch.where(mask, traces, 0.0), torch.zeros_like(bootstrap_value)
    )
    advantages = corrections if on_turn is None else torch.where(on_turn, corrections, 0.0)
    return GAEReturns(advantages, turns.values + corrections)
