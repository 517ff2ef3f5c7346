"""Storage of unrolls: reusable buffers that actors fill, and slicing by slots for the learner."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from machina.specs import EnvSpec
from machina.types import (
    ARRIVING,
    OBSERVATION,
    PER_SLOT,
    TIME_MAJOR,
    ActorOutput,
    Array,
    BoolArray,
    CoreState,
    IntArray,
    StepResult,
    Unroll,
    section,
)


class UnrollBuffer:
    """Preallocated arrays for one unroll of B slots, filled entry by entry and reused."""

    def __init__(self, spec: EnvSpec, unroll_length: int, slots: IntArray, task_ids: IntArray, core: CoreState) -> None:
        entries, num_slots = unroll_length + 1, len(slots)
        lead = spec.frame_stack - 1 if spec.stores_frames_once else 0
        self._lead = lead
        self._stacked = spec.stores_frames_once
        observation = {
            key: np.empty((entries + (lead if key == OBSERVATION else 0), num_slots, *array.shape), array.dtype)
            for key, array in spec.stored_observation.items()
        }
        self.unroll: Unroll[Array] = Unroll(
            observation=observation,
            **{
                name: np.zeros((entries, num_slots), np.float32 if name.endswith("reward") else np.bool_)
                for name in ARRIVING
            },
            foreign=np.zeros((entries, num_slots), np.bool_),
            action=np.zeros((entries, num_slots, *spec.action.shape), spec.action.dtype),
            behaviour_logits=np.zeros((entries, num_slots, spec.action.num_parameters), np.float32),
            core_state=tuple(np.zeros_like(array) for array in core),
            previous_action=spec.action.none(num_slots),
            first=np.zeros(num_slots, np.bool_),
            task_id=task_ids.copy(),
            slot=slots.copy(),
            policy_version=np.zeros(num_slots, np.int64),
        )

    def open(self, core_state: CoreState, previous_action: Array, first: BoolArray, policy_version: int) -> None:
        """Note with what the first entry is answered."""
        for stored, array in zip(self.unroll.core_state, core_state, strict=True):
            stored[...] = array
        self.unroll.previous_action[...] = previous_action
        self.unroll.first[...] = first
        self.unroll.policy_version[...] = policy_version

    def write_entry(self, t: int, result: StepResult) -> None:
        """Store observation ``t`` and the reward and flags that arrived with it."""
        for key, array in result.observation.items():
            stored = self.unroll.observation[key]
            if key == OBSERVATION and self._stacked:
                if t == 0:
                    stored[: self._lead] = np.moveaxis(array[:, :-1], 1, 0)
                stored[t + self._lead] = array[:, -1]
            else:
                stored[t] = array
        for name in ARRIVING:
            getattr(self.unroll, name)[t] = getattr(result, name)

    def write_answer(self, t: int, action: Array, answer: ActorOutput, foreign: BoolArray | bool) -> None:
        """Store the action in effect after entry ``t``, and who chose it with what logits."""
        self.unroll.action[t] = action
        self.unroll.foreign[t] = foreign
        self.unroll.behaviour_logits[t] = answer.behaviour_logits


def unroll_bytes(spec: EnvSpec, unroll_length: int, core_numbers: int) -> int:
    """Bytes of an unroll of one slot, as ``UnrollBuffer`` holds it.

    Args:
        spec: of the environment.
        unroll_length: T.
        core_numbers: of the core state, float32.
    """
    buffer = UnrollBuffer(spec, 0, np.zeros(1, np.int64), np.zeros(1, np.int64), ())
    arrays = to_arrays(buffer.unroll)
    per_entry = sum(
        array.nbytes // len(array)
        for name, array in arrays.items()
        if name in TIME_MAJOR or name.startswith("observation/")
    )
    once = sum(array.nbytes for array in arrays.values()) - per_entry + 4 * core_numbers
    return per_entry * (unroll_length + 1) + once


def num_slots(unroll: Unroll[Array]) -> int:
    """B of an unroll."""
    return len(unroll.slot)


def _combine(
    unrolls: Sequence[Unroll[Array]],
    time_major: Callable[[list[Array]], Array],
    per_slot: Callable[[list[Array]], Array],
) -> Unroll[Array]:
    """Apply one function to the ``[T + 1, B]`` arrays and another to the ``[B]`` arrays of several unrolls."""
    first = unrolls[0]
    return Unroll(
        observation={key: time_major([u.observation[key] for u in unrolls]) for key in first.observation},
        core_state=tuple(per_slot([u.core_state[i] for u in unrolls]) for i in range(len(first.core_state))),
        **{name: time_major([getattr(u, name) for u in unrolls]) for name in TIME_MAJOR},
        **{name: per_slot([getattr(u, name) for u in unrolls]) for name in PER_SLOT},
    )


def slice_slots(unroll: Unroll[Array], start: int, stop: int) -> Unroll[Array]:
    """Slots ``start`` to ``stop`` of an unroll, as views."""
    return _combine([unroll], lambda a: a[0][:, start:stop], lambda a: a[0][start:stop])


def concatenate_slots(unrolls: Sequence[Unroll[Array]]) -> Unroll[Array]:
    """A fresh unroll that holds the slots of all ``unrolls``, in order."""
    return _combine(unrolls, lambda a: np.concatenate(a, axis=1), lambda a: np.concatenate(a, axis=0))


def to_arrays(unroll: Unroll[Array]) -> dict[str, Array]:
    """The unroll as named arrays, for a file."""
    arrays = {f"observation/{key}": array for key, array in unroll.observation.items()}
    arrays |= {f"core_state/{i}": array for i, array in enumerate(unroll.core_state)}
    return arrays | {name: getattr(unroll, name) for name in TIME_MAJOR + PER_SLOT}


def from_arrays(arrays: dict[str, Array]) -> Unroll[Array]:
    """The inverse of ``to_arrays``."""
    core = section(arrays, "core_state/")
    return Unroll(
        observation=section(arrays, "observation/"),
        core_state=tuple(core[str(i)] for i in range(len(core))),
        **{name: arrays[name] for name in TIME_MAJOR + PER_SLOT},
    )
