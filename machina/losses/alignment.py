"""The one place where T + 1 entries become T aligned steps.

An entry holds what was known *at* observation t: the reward and the flags that arrived with it, and the action
chosen there. The consequence of that action therefore lies one entry later::

    entry        0        1        2     ...    T
    observation  x0       x1       x2           xT
    action       a0       a1       a2           (none: the next unroll has it)
    reward       (old)    r(a0)    r(a1)        r(a[T-1])
    flags        (old)    f(a0)    f(a1)        f(a[T-1])

so step t pairs action[t] and the policy's outputs[t] with reward[t + 1] and the flags of entry t + 1. Slicing both
alike is the classical mistake; nothing else in the code shifts time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from machina.types import NO_ACTION, Unroll


class Steps(NamedTuple):
    """T aligned steps of B slots, and what the network needs to read the T + 1 entries."""

    actions: Tensor
    """``[T, B, *action.shape]``."""
    policy_outputs: Mapping[str, Tensor]
    """``[T, B, ...]`` each: what the policy that acted left."""
    rewards: Tensor
    """``[T, B]``: what the action earned, as the environment gave it."""
    team_rewards: Tensor
    """``[T, B]``: the same, mean over the team."""
    enemy_rewards: Tensor
    """``[T, B]``: the same, mean over the other teams."""
    continues: Tensor
    """``[T, B]`` float32: 0 where the task ended or a life was lost, else 1, also where a limit cut."""
    mask: Tensor
    """``[T, B]`` bool: False for reset steps, whose action was ignored, and for those of another player than the
    policy that learns; no loss may count them."""
    on_turn: Tensor
    """``[T, B]`` bool: False where others moved; the action was ignored, the step's value counts."""
    first: Tensor
    """``[T + 1, B]`` bool: the entry opens an episode."""
    previous_actions: Tensor
    """``[T + 1, B, *action.shape]``: the agent's action before each entry, none where the entry opens an episode."""


def aligned(unroll: Unroll[Tensor]) -> Steps:
    """Shift rewards and flags by one entry.

    An entry with ``terminated`` or ``truncated`` is the last of its episode. Environments reset in the step after
    it, so the transition from there to the next entry is no transition of the task: it is masked out. The final
    observation itself stays in the unroll, hence truncation bootstraps from it.
    """
    done = unroll.terminated | unroll.truncated
    ends_return = unroll.terminated | unroll.life_lost
    first = torch.cat([unroll.first[None], done[:-1]])
    previous_actions = torch.cat([unroll.previous_action[None], unroll.action[:-1]])
    opens = first.reshape(*first.shape, *[1] * (previous_actions.ndim - 2))
    return Steps(
        actions=unroll.action[:-1],
        policy_outputs={key: output[:-1] for key, output in unroll.policy_outputs.items()},
        rewards=unroll.reward[1:],
        team_rewards=unroll.team_reward[1:],
        enemy_rewards=unroll.enemy_reward[1:],
        continues=(~ends_return[1:]).to(unroll.reward.dtype),
        mask=~(done[:-1] | unroll.foreign[:-1]),
        on_turn=unroll.on_turn[:-1],
        first=first,
        previous_actions=previous_actions.masked_fill(opens, 0 if unroll.action.is_floating_point() else NO_ACTION),
    )
