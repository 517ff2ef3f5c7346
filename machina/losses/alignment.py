"""The one place where T + 1 entries become T aligned steps.

An entry holds what was known *at* observation t: the reward and the flags that arrived with it, and the action
chosen there. The consequence of that action therefore lies one entry later::

    entry        0        1        2     ...    T
    observation  x0       x1       x2           xT
    action       a0       a1       a2           (zero: the next unroll answers it)
    reward       (old)    r(a0)    r(a1)        r(a[T-1])
    flags        (old)    f(a0)    f(a1)        f(a[T-1])

so step t pairs action[t] and behaviour_logits[t] with reward[t + 1] and the flags of entry t + 1. Slicing both
alike is the classical mistake; nothing else in the code shifts time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from machina.types import NO_ACTION, Unroll


class Steps(NamedTuple):
    """T aligned steps of B slots, and what the network needs to read the T + 1 entries."""

    actions: Tensor
    """``[T, B]`` int64."""
    behaviour_logits: Tensor
    """``[T, B, A]``."""
    rewards: Tensor
    """``[T, B]``: the answer to the action, as the environment gave it."""
    discounts: Tensor
    """``[T, B]``: gamma, zero where the task ended or a life was lost. A truncated step keeps gamma."""
    mask: Tensor
    """``[T, B]`` bool: False for reset steps, whose action was ignored; no loss may count them."""
    first: Tensor
    """``[T + 1, B]`` bool: the entry opens an episode."""
    previous_actions: Tensor
    """``[T + 1, B]`` int64: the action before each entry, ``NO_ACTION`` where the entry opens an episode."""


def aligned(unroll: Unroll[Tensor], gamma: float) -> Steps:
    """Shift rewards and flags by one entry, and fold termination into discounts.

    An entry with ``terminated`` or ``truncated`` is the last of its episode. Environments reset in the step after
    it, so the transition from there to the next entry is no transition of the task: it is masked out. The final
    observation itself stays in the unroll, hence truncation bootstraps from it.
    """
    done = unroll.terminated | unroll.truncated
    ends_return = unroll.terminated | unroll.life_lost
    first = torch.cat([(unroll.previous_action == NO_ACTION)[None], done[:-1]])
    previous_actions = torch.cat([unroll.previous_action[None], unroll.action[:-1]])
    return Steps(
        actions=unroll.action[:-1],
        behaviour_logits=unroll.behaviour_logits[:-1],
        rewards=unroll.reward[1:],
        discounts=gamma * (~ends_return[1:]).to(unroll.reward.dtype),
        mask=~done[:-1],
        first=first,
        previous_actions=previous_actions.masked_fill(first, NO_ACTION),
    )
