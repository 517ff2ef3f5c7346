"""Targets that look n steps ahead, then bootstrap."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from machina.losses.checks import check_shapes


class Window(NamedTuple):
    """What a window of steps comes to for its first one; ``[B]`` each."""

    returns: Tensor
    """Discounted rewards up to entry ``ahead``."""
    discounts: Tensor
    """Of the value at entry ``ahead``: 0 where the return stops there."""
    ahead: Tensor
    """int64, 1 to n: the entry from which the target bootstraps."""


@torch.no_grad()
def n_step_window(rewards: Tensor, continues: Tensor, done: Tensor, *, gamma: float) -> Window:
    """The n-step return of a window's first step, cut at the first end.

    With k the first entry of 1 to n that ends the episode or at which the return stops, or n::

        returns = sum over j < k of gamma^j r_j        discounts = gamma^k c        c: 0 where the return stops at k

    Args:
        rewards: ``[n, B]``, earned by each step.
        continues: ``[n, B]``: 0 where the task ended or a life was lost, else 1, also where a limit cut.
        done: ``[n, B]`` bool: the entry that follows the step is the last of its episode.
        gamma: discount.

    Raises:
        ValueError: shapes do not fit.
    """
    check_shapes(2, rewards=rewards, continues=continues, done=done)
    n = len(rewards)
    stops = done | (continues == 0)
    # Of each step, whether the window is still open when it is taken.
    before = torch.cat([torch.zeros_like(stops[:1]), stops[:-1]]).cumsum(0)
    is_open = before == 0
    powers = gamma ** torch.arange(n + 1, dtype=rewards.dtype, device=rewards.device)
    returns = (torch.where(is_open, rewards, 0.0) * powers[:n, None]).sum(0)
    ahead = is_open.sum(0)
    last = continues.gather(0, (ahead - 1)[None]).squeeze(0)
    return Window(returns, powers[ahead] * last, ahead)


@torch.no_grad()
def n_step_returns(rewards: Tensor, continues: Tensor, done: Tensor, values: Tensor, *, gamma: float, n: int) -> Tensor:
    """``[T, B]``: the n-step targets of all steps of a sequence, as R2D2 makes them (OpenReview r1lyTjAqYX).

    Where an episode ends, a life is lost or the sequence is over before n steps, the target bootstraps from there.

    Args:
        rewards: ``[T, B]``.
        continues: ``[T, B]``, see ``n_step_window``.
        done: ``[T, B]`` bool, see there.
        values: ``[T + 1, B]``: of every entry, from which targets may bootstrap.
        gamma: discount.
        n: steps to look ahead.

    Raises:
        ValueError: shapes do not fit.
    """
    check_shapes(2, rewards=rewards, continues=continues, done=done, values=values[:-1])
    length = len(rewards)
    stops = done | (continues == 0)
    stops[-1] = True
    # Behind the sequence there is nothing that a target reaches: every step before stops at its end.
    following = torch.cat([values, values[-1:].expand(n, -1)])
    rewards, continues, stops = (torch.cat([each, each[-1:].expand(n, -1)]) for each in (rewards, continues, stops))
    targets = following[n : n + length]
    for ahead in range(n - 1, -1, -1):
        steps = slice(ahead, ahead + length)
        bootstrap = continues[steps] * following[ahead + 1 : ahead + 1 + length]
        targets = rewards[steps] + gamma * torch.where(stops[steps], bootstrap, targets)
    return targets
