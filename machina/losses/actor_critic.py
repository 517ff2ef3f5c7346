"""Per-step losses of actor-critic agents; the caller weights, masks and sums over batch and time.

Summed, not averaged: the learning rate of the IMPALA paper belongs to sums (its Table D.1).
"""

from __future__ import annotations

from torch import Tensor

from machina.losses.checks import check_shapes


def policy_gradient_loss(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """``[T, B]``: -A log pi(a, given x); no gradient flows through the advantages.

    Args:
        log_probs: ``[T, B]``, of the actions taken under the target policy.
        advantages: ``[T, B]``, importance ratio included.
    """
    check_shapes(2, log_probs=log_probs, advantages=advantages)
    return -advantages.detach() * log_probs


def value_loss(values: Tensor, targets: Tensor) -> Tensor:
    """``[...]``: half the squared error to ``targets`` ``[...]``, which are held constant."""
    check_shapes(None, values=values, targets=targets)
    return 0.5 * (targets.detach() - values).square()
