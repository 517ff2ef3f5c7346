"""Unrolls on the learner's device, parts of them, and what the network reads of them."""

from __future__ import annotations

import torch
from torch import Tensor

from machina.nets.frames import stacked_frames
from machina.nets.network import NetworkInput
from machina.specs import EnvSpec
from machina.types import OBSERVATION, Array, Unroll, combined


def to_device(batch: Unroll[Array], device: torch.device) -> Unroll[Tensor]:
    """The arrays as tensors on ``device``; on a CPU they share the arrays' memory."""

    def move(array: Array) -> Tensor:
        return torch.as_tensor(array).to(device, non_blocking=True)

    return combined([batch], lambda arrays: move(arrays[0]), lambda arrays: move(arrays[0]))


def slots_of(unroll: Unroll[Tensor], slots: slice | Tensor) -> Unroll[Tensor]:
    """Some slots of an unroll; views for a slice."""
    return combined([unroll], lambda tensors: tensors[0][:, slots], lambda tensors: tensors[0][slots])


def network_input(unroll: Unroll[Tensor], first: Tensor, previous_actions: Tensor, spec: EnvSpec) -> NetworkInput:
    """What the network reads of all T + 1 entries; frame stacks are rebuilt.

    Args:
        unroll: of B slots.
        first: ``[T + 1, B]`` bool, from ``machina.losses.alignment``.
        previous_actions: ``[T + 1, B, *action.shape]``, from there too.
        spec: of the environment.
    """
    observation = dict(unroll.observation)
    if spec.stores_frames_once:
        observation[OBSERVATION] = stacked_frames(observation[OBSERVATION], first)
    return NetworkInput(observation, unroll.reward, previous_actions, first, unroll.task_id.expand(first.shape))


def columns_of(inputs: NetworkInput, slots: Tensor, entries: int) -> NetworkInput:
    """The first ``entries`` of some slots, ``[entries, len(slots), ...]``."""
    return NetworkInput(
        {key: tensor[:entries, slots] for key, tensor in inputs.observation.items()},
        *(tensor[:entries, slots] for tensor in inputs[1:]),
    )


def steps_of(inputs: NetworkInput, steps: Tensor) -> NetworkInput:
    """Single steps as a batch of one entry, ``[1, len(steps), ...]``; ``steps`` are ``t * B + slot``.

    For networks without a core state only.
    """
    num_slots = inputs.reward.shape[1]
    t, slot = steps // num_slots, steps % num_slots
    return NetworkInput(
        {key: tensor[t, slot][None] for key, tensor in inputs.observation.items()},
        *(tensor[t, slot][None] for tensor in inputs[1:]),
    )
