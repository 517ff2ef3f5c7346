"""V-trace: off-policy corrected value targets and policy-gradient advantages (IMPALA, arXiv 1802.01561)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from machina.losses.checks import check_shapes


class VTraceReturns(NamedTuple):
    """Targets, without gradient."""

    vs: Tensor
    """``[T, B]``: value targets, equation 1 of the paper."""
    pg_advantages: Tensor
    """``[T, B]``: factors of grad log pi(a_t, given x_t), section 4.2."""


@torch.no_grad()
def vtrace(
    log_rhos: Tensor,
    discounts: Tensor,
    rewards: Tensor,
    values: Tensor,
    bootstrap_value: Tensor,
    mask: Tensor,
    rho_clip: float = 1.0,
    c_clip: float = 1.0,
    pg_rho_clip: float = 1.0,
    lambda_: float = 1.0,
) -> VTraceReturns:
    """Targets and advantages by the backward recursion of Remark 1.

    With rho_t = min(rho_clip, pi/mu), c_t = lambda min(c_clip, pi/mu) and
    delta_t = rho_t (r_t + discount_t V(x_{t+1}) - V(x_t))::

        vs_t - V(x_t) = delta_t + discount_t c_t (vs_{t+1} - V(x_{t+1}))

    A masked step has rho_t = c_t = 0: its target is its own value and its advantage zero. As a masked step follows
    each episode end, the step that a limit cut bootstraps from V(final observation), and no target looks past an
    end into the next episode.

    Args:
        log_rhos: ``[T, B]``, log pi(a_t) - log mu(a_t).
        discounts: ``[T, B]``, zero after termination.
        rewards: ``[T, B]``.
        values: ``[T, B]``, V(x_t), unnormalized.
        bootstrap_value: ``[B]``, V(x_T).
        mask: ``[T, B]`` bool, False for steps that are no transitions.
        rho_clip: rho-bar; decides the policy whose value is the fixed point (equation 3).
        c_clip: c-bar; decides the speed of convergence only.
        pg_rho_clip: clip of the ratio that weights the policy gradient.
        lambda_: decay of the traces (Remark 2).
    """
    check_shapes(2, log_rhos=log_rhos, discounts=discounts, rewards=rewards, values=values, mask=mask)
    check_shapes(1, bootstrap_value=bootstrap_value, last_values=values[-1])

    rhos = torch.where(mask, log_rhos.exp(), 0.0)
    next_values = torch.cat([values[1:], bootstrap_value[None]])
    deltas = rhos.clamp(max=rho_clip) * (rewards + discounts * next_values - values)
    traces = discounts * lambda_ * rhos.clamp(max=c_clip)

    corrections = torch.empty_like(deltas)
    correction = torch.zeros_like(bootstrap_value)
    for t in reversed(range(len(deltas))):
        correction = torch.addcmul(deltas[t], traces[t], correction)
        corrections[t] = correction
    vs = values + corrections

    # The advantage bootstraps from vs_{t+1}, not from V(x_{t+1}): appendix E.3 found the latter worse.
    next_vs = torch.cat([vs[1:], bootstrap_value[None]])
    pg_advantages = rhos.clamp(max=pg_rho_clip) * (rewards + discounts * next_vs - values)
    return VTraceReturns(vs, pg_advantages)
