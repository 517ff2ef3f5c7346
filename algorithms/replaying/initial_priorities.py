"""Priorities of new items from what actors computed anyway (Ape-X, arXiv 1803.00933)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from machina.algorithms.exploration.acting import MAX_Q, TAKEN_Q
from machina.types import Array, Unroll


class ActorErrors(NamedTuple):
    """Makes n-step errors of windows, with the actor's network in place of both; travels pickled."""

    gamma: float
    clips_rewards: bool

    def of(self, window: Unroll[Array]) -> Array:
        """``[k]`` float32: sizes of the errors of windows ``[n + 1, k]`` without observations.

        Equal to the learner's where its networks are the actor's.
        """
        rewards = window.reward[1:].astype(np.float64)
        if self.clips_rewards:
            rewards = rewards.clip(-1, 1)
        ends_return = (window.terminated | window.life_lost)[1:]
        stops = ends_return | window.truncated[1:]
        is_open = np.concatenate([np.ones_like(stops[:1]), ~np.logical_or.accumulate(stops)[:-1]])
        powers = self.gamma ** np.arange(len(window.reward))
        ahead = is_open.sum(axis=0)
        items = np.arange(len(ahead))
        continues = ~ends_return[ahead - 1, items]
        returns = (rewards * is_open * powers[:-1, None]).sum(axis=0)
        values = window.policy_outputs[MAX_Q][ahead, items]
        # At a break nothing was said of the last entry; its value is taken for 0.
        targets = returns + powers[ahead] * continues * values
        errors: Array = np.abs(targets - window.policy_outputs[TAKEN_Q][0].astype(np.float64)).astype(np.float32)
        return errors
