"""Unrolls on the learner's device, parts of them, and what the network reads of them."""

from __future__ import annotations

import torch
from torch import Tensor

from machina.nets.frames import stacked_frames
from machina.nets.network import NetworkInput
from machina.specs import EnvSpec
from machina.types import OBSERVATION, PER_SLOT, TIME_MAJOR, Array, Unroll


def to_device(batch: Unroll[Array], device: torch.device) -> Unroll[Tensor]:
    """The arrays as tensors on ``device``; on a CPU they share the arrays' memory."""

    def move(array: Array) -> Tensor:
        return torch.as_tensor(array).to(device, non_blocking=True)

    return Unroll(
        observation={key: move(array) for key, array in batch.observation.items()},
        core_state=tuple(move(array) for array in batch.core_state),
        **{name: move(getattr(batch, name)) for name in (*TIME_MAJOR, *PER_SLOT)},
    )


def slots_of(unroll: Unroll[Tensor], slots: slice | Tensor) -> Unroll[Tensor]:
    """Some slots of an unroll; views for a slice."""
    return Unroll(
        observation={key: tensor[:, slots] for key, tensor in unroll.observation.items()},
        core_state=tuple(tensor[slots] for tensor in unroll.core_state),
        **{name: getattr(unroll, name)[:, slots] for name in TIME_MAJOR},
        **{name: getattr(unroll, name)[slots] for name in PER_SLOT},
    )


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
