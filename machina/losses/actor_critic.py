"""Per-step losses of actor-critic agents; the caller weights, masks and sums over batch and time.

Summed, not averaged: the learning rate of the IMPALA paper belongs to sums (its Table D.1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from machina.losses.checks import check_shapes


def action_log_probs(logits: Tensor, actions: Tensor) -> Tensor:
    """``[T, B]``: log-probability of ``actions`` ``[T, B]`` under ``logits`` ``[T, B, A]``."""
    check_shapes(2, actions=actions, logits_of_one_action=logits[..., 0])
    return torch.log_softmax(logits, dim=-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def policy_gradient_loss(logits: Tensor, actions: Tensor, advantages: Tensor) -> Tensor:
    """``[T, B]``: -A log pi(a, given x); no gradient flows through the advantages.

    Args:
        logits: ``[T, B, A]``, of the target policy.
        actions: ``[T, B]`` int64.
        advantages: ``[T, B]``, importance ratio included.
    """
    check_shapes(2, advantages=advantages, actions=actions)
    return -advantages.detach() * action_log_probs(logits, actions)


def value_loss(values: Tensor, targets: Tensor) -> Tensor:
    """``[T, B]``: half the squared error to ``targets`` ``[T, B]``, which are held constant."""
    check_shapes(2, values=values, targets=targets)
    return 0.5 * (targets.detach() - values).square()


def entropy_loss(logits: Tensor) -> Tensor:
    """``[T, B]``: the negative entropy of softmax(``logits`` ``[T, B, A]``), in nats."""
    check_shapes(3, logits=logits)
    log_probs = torch.log_softmax(logits, dim=-1)
    return (log_probs.exp() * log_probs).sum(dim=-1)
