"""Returns over an agent's own turns, for games in which an agent waits while others move.

While it waits, an agent takes steps like any other slot, but its actions are ignored. A reward that arrives there
(the loser's -1, say) belongs to its last own action, undiscounted: gamma counts own turns. With own turns at s < s',
and no end of the episode between them, the return of s is therefore::

    G_s = r_s + r_{s+1} + ... + r_{s'-1} + gamma G_{s'}

An unroll may be cut anywhere in between, at an entry k that is not on turn. The action at s must then be able to
bootstrap with gamma V(x_k), as from any other entry, so V(x_k) has to stand for::

    G_k = (r_k + ... + r_{s'-1}) / gamma + G_{s'}        as then        r_s + ... + r_{k-1} + gamma G_k = G_s

In words: the value of an entry off turn is that of the agent's next own turn and what arrives until then, in units of
that turn. Step by step this is the ordinary recursion of returns with a reward and a discount of its own for each
step, which hold for an end, a cut and a lost life too::

    on turn:   G_t = r_t         + gamma c_t G_{t+1}        c_t ("continues"): 0 where the return stops, else 1
    off turn:  G_t = r_t / gamma +       c_t G_{t+1}

Off turn nothing is decided, so nothing is to be assessed there: where temporal differences want V(x_t) of such an
entry, ``own_turns`` gives them what the step itself shows, the sum up to the next *station*: the next own turn, the
last entry of the episode, or entry T, whichever comes first. A temporal difference is then zero off turn, and one on
turn spans all steps up to its station. Only at a station the network's value enters.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from machina.losses.checks import check_shapes


class OwnTurns(NamedTuple):
    """T steps, ``[T, B]`` each, with reward + discount * next_value - value as the temporal difference of own turns."""

    rewards: Tensor
    """As given on turn, divided by gamma off turn."""
    discounts: Tensor
    """``continues``, times gamma on turn."""
    values: Tensor
    """V(x_t) on turn and of masked steps; off turn what the steps up to the station show."""
    next_values: Tensor
    """``values`` one entry later, the bootstrap value last."""


@torch.no_grad()
def own_turns(
    rewards: Tensor,
    continues: Tensor,
    values: Tensor,
    bootstrap_value: Tensor,
    mask: Tensor,
    on_turn: Tensor | None,
    gamma: float,
) -> OwnTurns:
    """What the recursions of GAE and V-trace need of T steps.

    Args:
        rewards: ``[T, B]``.
        continues: ``[T, B]``, 0 where the task ended or a life was lost, else 1.
        values: ``[T, B]``, V(x_t), unnormalized.
        bootstrap_value: ``[B]``, V(x_T).
        mask: ``[T, B]`` bool, False for steps that are no transitions.
        on_turn: ``[T, B]`` bool, or None where all agents always are; then nothing is added up.
        gamma: discount per own turn.

    Raises:
        ValueError: shapes differ, or gamma is 0 in a game with turns.
    """
    check_shapes(2, rewards=rewards, continues=continues, values=values, mask=mask)
    check_shapes(1, bootstrap_value=bootstrap_value, last_values=values[-1])
    discounts = gamma * continues
    if on_turn is not None:
        check_shapes(2, rewards=rewards, on_turn=on_turn)
        if gamma <= 0:
            raise ValueError(f"gamma must be positive in a game with turns, got {gamma}")
        rewards = torch.where(on_turn, rewards, rewards / gamma)
        discounts = torch.where(on_turn, discounts, continues)
        waits = mask & ~on_turn
        values = accumulated(torch.where(waits, rewards, values), torch.where(waits, discounts, 0.0), bootstrap_value)
    return OwnTurns(rewards, discounts, values, torch.cat([values[1:], bootstrap_value[None]]))


def accumulated(terms: Tensor, factors: Tensor, last: Tensor) -> Tensor:
    """``[T, B]``: x_t = terms_t + factors_t x_{t+1}, from the end, where x_T is ``last`` ``[B]``; without gradient."""
    sums = torch.empty_like(terms)
    following = last
    # Rows taken apart once: indexed in the loop, it takes half as long again.
    for term, factor, row in zip(*(reversed(each.unbind()) for each in (terms, factors, sums)), strict=True):
        following = torch.addcmul(term, factor, following, out=row)
    return sums
