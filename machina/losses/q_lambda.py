"""Targets of Q-learning over an unroll: Q(lambda) (arXiv 2407.04811, section 4; Peng and Williams 1996)."""

from __future__ import annotations

import torch
from torch import Tensor

from machina.losses.checks import check_shapes


@torch.no_grad()
def q_lambda_returns(
    rewards: Tensor,
    continues: Tensor,
    max_q: Tensor,
    mask: Tensor,
    *,
    gamma: float,
    lambda_: float,
) -> Tensor:
    """``[T, B]`` float32: what the value of each action taken is to be.

    With the highest value M(x) of an observation::

        G_t = r_t + gamma c_t (lambda G_{t+1} + (1 - lambda) M(x_{t+1}))        c_t ("continues"): 0 where it stops

    Where nothing is known of the next step, at the end of the unroll and at an episode's last observation, M(x_{t+1})
    stands for G_{t+1}. Nothing is corrected for what was explored, as in the paper.

    Args:
        rewards: ``[T, B]``.
        continues: ``[T, B]``: 0 where the task ended or a life was lost, else 1, also where a limit cut.
        max_q: ``[T + 1, B]``: the highest value among the actions allowed at each entry.
        mask: ``[T, B]`` bool: False for reset steps.
        gamma: discount.
        lambda_: 0 is the one-step target, 1 the return up to the end of the unroll.

    Raises:
        ValueError: shapes do not fit.
    """
    check_shapes(2, rewards=rewards, continues=continues, mask=mask, max_q=max_q[:-1])
    ahead = max_q[-1]  # lambda G_{t+1} + (1 - lambda) M(x_{t+1})
    returns = torch.empty_like(rewards)
    for t in range(len(rewards) - 1, -1, -1):
        returns[t] = rewards[t] + gamma * continues[t] * ahead
        ahead = torch.where(mask[t], lambda_ * returns[t] + (1 - lambda_) * max_q[t], max_q[t])
    return returns
