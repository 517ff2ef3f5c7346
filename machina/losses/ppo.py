"""Per-step losses and measurements of proximal policy optimization (arXiv 1707.06347).

Any leading shape, equal for all arguments: minibatches need no time axis. The caller weights, masks and sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

from machina.losses.checks import check_shapes


def clipped_policy_loss(log_probs: Tensor, behaviour_log_probs: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """``[...]``: -min(ratio A, clip(ratio, 1 - clip, 1 + clip) A), equation 7; ratio = pi(a) / mu(a).

    For a softmax policy with logits z and probabilities p the gradient is::

        d loss / dz = -A ratio (onehot(a) - p)

    and 0 where the ratio has already moved in the direction of its advantage beyond the clip: ratio > 1 + clip with
    A > 0, ratio < 1 - clip with A < 0.

    Args:
        log_probs: ``[...]``, of the actions taken under the target policy. A step that is not to count needs a finite
            ratio nevertheless: an infinite one times a weight of 0 is NaN in the gradient.
        behaviour_log_probs: ``[...]``, under the policy that acted; held constant.
        advantages: ``[...]``, held constant.
        clip: epsilon; 0.2 in the paper's Table 3, 0.1 in its Table 5.
    """
    check_shapes(None, log_probs=log_probs, behaviour_log_probs=behaviour_log_probs, advantages=advantages)
    weights = advantages.detach()
    ratios = (log_probs - behaviour_log_probs.detach()).exp()
    return -torch.minimum(ratios * weights, ratios.clamp(1 - clip, 1 + clip) * weights)


def clipped_value_loss(values: Tensor, behaviour_values: Tensor, targets: Tensor, clip: float) -> Tensor:
    """``[...]``: half the larger of the squared errors of V and of V kept within ``clip`` of the behaviour's V.

    Not in the paper; from the code published with it (openai/baselines, ppo2). It depends on the scale of the values.

    Args:
        values: ``[...]``.
        behaviour_values: ``[...]``, those that the targets were made with; held constant.
        targets: ``[...]``, held constant.
        clip: in units of the values.
    """
    check_shapes(None, values=values, behaviour_values=behaviour_values, targets=targets)
    constant, start = targets.detach(), behaviour_values.detach()
    near = start + (values - start).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - constant).square(), (near - constant).square())


@torch.no_grad()
def approximate_kl(log_ratios: Tensor) -> Tensor:
    """``[...]``: (ratio - 1) - log ratio, whose mean over the behaviour policy's actions is KL(behaviour, target).

    Never negative, and of lower variance than -log ratio (J. Schulman, "Approximating KL Divergence", 2020, where it
    is called k3).

    Args:
        log_ratios: ``[...]``, log pi(a) - log mu(a).
    """
    return log_ratios.expm1() - log_ratios


@torch.no_grad()
def outside_clip(log_ratios: Tensor, clip: float) -> Tensor:
    """``[...]`` bool: the ratio is off 1 by more than ``clip``; the mean is the share of clipped ratios."""
    return log_ratios.expm1().abs() > clip
