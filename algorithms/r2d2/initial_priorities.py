"""Priorities of new sequences from what actors computed anyway."""

from __future__ import annotations

from typing import NamedTuple

import torch

from machina.algorithms.exploration.acting import MAX_Q, TAKEN_Q
from machina.algorithms.r2d2.config import R2D2Config
from machina.losses.n_step import n_step_returns
from machina.losses.q_learning import sequence_priorities
from machina.losses.value_rescaling import rescaled, unrescaled
from machina.types import Array, Unroll


class SequenceErrors(NamedTuple):
    """Makes priorities of sequences, with the actor's network in place of both; travels pickled."""

    config: R2D2Config
    clips_rewards: bool

    def of(self, window: Unroll[Array]) -> Array:
        """``[k]`` float32: of sequences without observations; the learner's, where its networks are the actor's.

        Made in float64, so that they do not depend on how many sequences come at once.
        """
        config = self.config
        learned = slice(config.burn_in_length, None)
        rewards = torch.from_numpy(window.reward[1:][learned]).double()
        if self.clips_rewards:
            rewards = rewards.clamp(-1, 1)
        done = window.terminated | window.truncated
        ends_return = window.terminated | window.life_lost
        values = torch.from_numpy(window.policy_outputs[MAX_Q][learned]).double()
        taken = torch.from_numpy(window.policy_outputs[TAKEN_Q][:-1][learned]).double()
        targets = n_step_returns(
            rewards,
            torch.from_numpy(~ends_return[1:][learned]).double(),
            torch.from_numpy(done[1:][learned]),
            unrescaled(values) if config.rescales_values else values,
            gamma=config.gamma,
            n=config.n_step,
        )
        if config.rescales_values:
            targets = rescaled(targets)
        mask = torch.from_numpy(~(done | window.foreign)[:-1][learned])
        priorities: Array = sequence_priorities(targets - taken, mask, eta=config.largest_error_weight).float().numpy()
        return priorities
