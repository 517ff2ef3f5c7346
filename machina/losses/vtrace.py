"""V-trace: off-policy corrected value targets and policy-gradient advantages (IMPALA, arXiv 1802.01561)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from machina.losses.checks import check_shapes
from machina.losses.turns import accumulated, own_turns


class VTraceReturns(NamedTuple):
    """Targets, without gradient."""

    vs: Tensor
    """``[T, B]``: value targets, equation 1 of the paper."""
    pg_advantages: Tensor
    """``[T, B]``: factors of grad log pi(a_t, given x_t), section 4.2; 0 for masked steps and off turn."""


@torch.no_grad()
def vtrace(
    log_rhos: Tensor,
    continues: Tensor,
    rewards: Tensor,
    values: Tensor,
    bootstrap_value: Tensor,
    mask: Tensor,
    gamma: float,
    rho_clip: float = 1.0,
    c_clip: float = 1.0,
    pg_rho_clip: float = 1.0,
    lambda_: float = 1.0,
    on_turn: Tensor | None = None,
) -> VTraceReturns:
    """Targets and advantages by the backward recursion of Remark 1, over own turns.

    With rho_t = min(rho_clip, pi/mu), c_t = lambda min(c_clip, pi/mu) and
    delta_t = rho_t (r_t + discount_t V(x_{t+1}) - V(x_t))::

        vs_t - V(x_t) = delta_t + discount_t c_t (vs_{t+1} - V(x_{t+1}))

    Off turn, where the agent's action was ignored, rewards, discounts and values are those of ``machina.losses.turns``
    and delta_t = 0, c_t = 1: the correction of the next own turn passes unchanged, and nothing of ``log_rhos`` is used.

    A masked step has rho_t = c_t = 0: its target is its own value and its advantage zero. As a masked step follows
    each episode end, the step that a limit cut bootstraps from V(final observation), and no target looks past an
    end into the next episode.

    Args:
        log_rhos: ``[T, B]``, log pi(a_t) - log mu(a_t).
        continues: ``[T, B]``, 0 where the task ended or a life was lost, else 1.
        rewards: ``[T, B]``.
        values: ``[T, B]``, V(x_t), unnormalized.
        bootstrap_value: ``[B]``, V(x_T).
        mask: ``[T, B]`` bool, False for steps that are no transitions.
        gamma: discount per own turn.
        rho_clip: rho-bar; decides the policy whose value is the fixed point (equation 3).
        c_clip: c-bar; decides the speed of convergence only.
        pg_rho_clip: clip of the ratio that weights the policy gradient.
        lambda_: decay of the traces (Remark 2).
        on_turn: ``[T, B]`` bool; None where all agents always are.

    Raises:
        ValueError: shapes differ.
    """
    check_shapes(2, log_rhos=log_rhos, rewards=rewards)
    turns = own_turns(rewards, continues, values, bootstrap_value, mask, on_turn, gamma)
    rhos = torch.where(mask if on_turn is None else mask & on_turn, log_rhos.exp(), 0.0)
    deltas = rhos.clamp(max=rho_clip) * (turns.rewards + turns.discounts * turns.next_values - turns.values)
    traces = turns.discounts * lambda_ * rhos.clamp(max=c_clip)
    if on_turn is not None:
        traces = torch.where(mask & ~on_turn, turns.discounts, traces)
    vs = turns.values + accumulated(deltas, traces, torch.zeros_like(bootstrap_value))

    # The advantage bootstraps from vs_{t+1}, not from V(x_{t+1}): appendix E.3 found the latter worse.
    next_vs = torch.cat([vs[1:], bootstrap_value[None]])
    pg_advantages = rhos.clamp(max=pg_rho_clip) * (turns.rewards + turns.discounts * next_vs - values)
    return VTraceReturns(vs, pg_advantages)
