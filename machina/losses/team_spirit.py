"""Rewards shared within a team, and set against those of the other side (OpenAI Five, arXiv 1912.06680)."""

from __future__ import annotations

from torch import Tensor

from machina.losses.checks import check_shapes


def team_spirit_rewards(
    rewards: Tensor, team_rewards: Tensor, enemy_rewards: Tensor, tau: float, zero_sum: bool
) -> Tensor:
    """``[...]``: (1 - tau) own + tau team mean, equation 12 of the paper; with ``zero_sum`` minus the enemies' mean.

    The enemies' mean (appendix G) is the same for all of a team, so it does not matter whether it is subtracted
    before or after. All means were taken where the whole game was at hand: a slot needs no other slot of its game, and
    batches may be split between any.

    Args:
        rewards: ``[...]``, the agent's own.
        team_rewards: ``[...]``, mean over its team, itself included.
        enemy_rewards: ``[...]``, mean over all agents of other teams; 0 without any.
        tau: team spirit, from 0 (selfish) to 1 (all share alike).
        zero_sum: between sides of equal size the rewards of all agents then add up to 0.
    """
    check_shapes(None, rewards=rewards, team_rewards=team_rewards, enemy_rewards=enemy_rewards)
    shared = (1 - tau) * rewards + tau * team_rewards
    return shared - enemy_rewards if zero_sum else shared
