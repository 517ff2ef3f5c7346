"""Frame stacks rebuilt from frames that were stored once."""

from __future__ import annotations

import torch
from torch import Tensor


def stacked_frames(frames: Tensor, first: Tensor) -> Tensor:
    """The stacks an environment showed, from its newest frames.

    Within an episode the stack of entry t is that of entry t - 1 shifted by one frame; an episode opens with zeros
    and its first frame. The frames before entry 0 come from the stack of entry 0 itself, so they are right whatever
    happened before the unroll, and ``first[0]`` is not needed.

    Args:
        frames: ``[T + stack, B, H, W]`` of any dtype; the ``stack - 1`` frames that precede entry 0 come first.
        first: ``[T + 1, B]`` bool, the entry opens an episode.

    Returns:
        ``[T + 1, B, stack, H, W]``, newest frame last, with the stack axis innermost in memory: flattened over T and
        B it is a channels-last batch, which convolutions read fastest.
    """
    entries = len(first)
    stack = len(frames) - entries + 1
    stacks = torch.stack([frames[age : age + entries] for age in range(stack)], dim=-1)
    # Resets are rare: write zeros where they are, rather than multiply everything by a mask.
    reset_entry, reset_slot = first[1:].nonzero(as_tuple=True)
    if len(reset_entry):
        for since in range(min(stack - 1, entries)):
            inside = reset_entry + 1 + since < entries
            stacks[reset_entry[inside] + 1 + since, reset_slot[inside], :, :, : stack - 1 - since] = 0
    return stacks.permute(0, 1, 4, 2, 3)
