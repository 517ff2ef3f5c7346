"""The structures that travel through the data plane.

Time and batch are called T and B everywhere: T is ``unroll_length``, B counts slots. An unroll has
``T + 1`` entries; entry t holds observation t, the reward and the flags that arrived with it, the
action taken there and what the behaviour policy answered. The last entry opens the next unroll, so
its action and logits are zero. ``machina.losses.alignment`` turns this into T aligned steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Observation = Mapping[str, Array]
CoreState = tuple[FloatArray, ...]

OBSERVATION = "observation"
"""The key of an observation that the environment gives as one array."""

NO_ACTION = -1
"""The previous action at the first entry of an episode."""

AnyArray = TypeVar("AnyArray")


class Unroll(NamedTuple, Generic[AnyArray]):
    """T + 1 consecutive entries of B slots; numpy arrays from the actor, tensors in the learner.

    When the environment's spec has ``frame_stack > 1``, ``observation["observation"]`` holds every
    image frame once: ``[T + frame_stack, B, H, W]``, the frames that precede entry 0 first.
    """

    observation: Mapping[str, AnyArray]
    """``[T + 1, B, ...]`` each."""
    reward: AnyArray
    """``[T + 1, B]`` float32, as the environment gave it."""
    terminated: AnyArray
    """``[T + 1, B]`` bool: observation t is the last one of an episode that the task ended."""
    truncated: AnyArray
    """``[T + 1, B]`` bool: observation t is the last one of an episode that a limit cut."""
    life_lost: AnyArray
    """``[T + 1, B]`` bool: the return stops here, the episode goes on (zero discount, no reset)."""
    action: AnyArray
    """``[T + 1, B]`` int64."""
    behaviour_logits: AnyArray
    """``[T + 1, B, A]`` float32."""
    core_state: tuple[AnyArray, ...]
    """``[B, ...]`` each: the recurrent state with which entry 0 was answered."""
    previous_action: AnyArray
    """``[B]`` int64: the action before entry 0, ``NO_ACTION`` when entry 0 opens an episode."""
    task_id: AnyArray
    """``[B]`` int64."""
    slot: AnyArray
    """``[B]`` int64: index of the slot in the whole run."""
    policy_version: AnyArray
    """``[B]`` int64: the learner update whose parameters acted."""


class StepResult(NamedTuple):
    """What a vector environment of B slots answers to a reset or a step."""

    observation: Observation
    reward: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    life_lost: BoolArray


class ActorOutput(NamedTuple):
    """What the behaviour policy answers for B slots."""

    action: IntArray
    """``[B]``."""
    behaviour_logits: FloatArray
    """``[B, A]``."""
    core_state: CoreState


class Episode(NamedTuple):
    """A finished episode, undiscounted and unclipped."""

    task_id: int
    episode_return: float
    length: int
    """In env steps."""
