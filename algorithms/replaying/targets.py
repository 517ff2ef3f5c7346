"""What the learner reads of windows: their first entry, and the one from which the target bootstraps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from machina.losses.alignment import Steps, aligned
from machina.losses.n_step import Window, n_step_window
from machina.nets.network import NetworkInput
from machina.specs import EnvSpec
from machina.types import OBSERVATION, Unroll


class Samples(NamedTuple):
    """B transitions of up to n steps."""

    inputs: NetworkInput
    """``[1, B, ...]``: where the action was taken."""
    next_inputs: NetworkInput
    """``[1, B, ...]``: n steps later, or where the episode or the return ended."""
    actions: Tensor
    """``[B]``."""
    window: Window
    weights: Tensor
    """``[B]``: importance weights."""
    shown: Tensor
    """``[B]`` bool: a demonstration."""

    def of(self, items: slice) -> Samples:
        """Some of them."""
        return Samples(
            _of(self.inputs, items),
            _of(self.next_inputs, items),
            self.actions[items],
            Window(*(each[items] for each in self.window)),
            self.weights[items],
            self.shown[items],
        )


def samples_of(unroll: Unroll[Tensor], spec: EnvSpec, *, gamma: float, clips_rewards: bool) -> Samples:
    """Read windows of n + 1 entries.

    Args:
        unroll: of B windows.
        spec: of the environment.
        gamma: discount.
        clips_rewards: whether rewards are clipped to [-1, 1].
    """
    steps = aligned(unroll)
    done = (unroll.terminated | unroll.truncated)[1:]
    rewards = steps.rewards.clamp(-1, 1) if clips_rewards else steps.rewards
    window = n_step_window(rewards, steps.continues, done, gamma=gamma)
    return Samples(
        _entry(unroll, steps, torch.zeros_like(window.ahead), spec),
        _entry(unroll, steps, window.ahead, spec),
        steps.actions[0],
        window,
        unroll.weight,
        unroll.policy_version < 0,
    )


def _entry(unroll: Unroll[Tensor], steps: Steps, entry: Tensor, spec: EnvSpec) -> NetworkInput:
    """Entry ``entry`` ``[B]`` of each slot.

    No episode begins before it, so that a stack is the frames as they lie, and the replay has blanked those that
    precede an episode.
    """
    slots = torch.arange(len(entry), device=entry.device)
    observation = {key: tensor[entry, slots][None] for key, tensor in unroll.observation.items() if key != OBSERVATION}
    if OBSERVATION in unroll.observation:
        frames = unroll.observation[OBSERVATION]
        if spec.stores_frames_once:
            ages = torch.arange(spec.frame_stack, device=entry.device)
            # Rows of a flat tensor are chosen ten times as fast as places among two axes.
            rows = (entry[:, None] + ages) * len(entry) + slots[:, None]
            stacks = frames.flatten(0, 1).index_select(0, rows.flatten())
            observation[OBSERVATION] = stacks.reshape(1, *rows.shape, *frames.shape[2:])
        else:
            observation[OBSERVATION] = frames[entry, slots][None]
    return NetworkInput(
        observation,
        unroll.reward[entry, slots][None],
        steps.previous_actions[entry, slots][None],
        steps.first[entry, slots][None],
        unroll.task_id[None],
    )


def _of(inputs: NetworkInput, items: slice) -> NetworkInput:
    observation = {key: tensor[:, items] for key, tensor in inputs.observation.items()}
    return NetworkInput(observation, *(tensor[:, items] for tensor in inputs[1:]))
