"""Storage of unrolls: reusable buffers that actors fill, and slicing by slots for the learner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from machina.specs import ArraySpec, EnvSpec
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
    combined,
    section,
)


class UnrollBuffer:
    """Preallocated arrays for one unroll of B slots, filled entry by entry and reused."""

    def __init__(
        self,
        spec: EnvSpec,
        policy_outputs: Mapping[str, ArraySpec],
        unroll_length: int,
        slots: IntArray,
        task_ids: IntArray,
        core: CoreState,
    ) -> None:
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
            policy_outputs={
                key: np.zeros((entries, num_slots, *array.shape), array.dtype) for key, array in policy_outputs.items()
            },
            core_state=tuple(np.zeros_like(array) for array in core),
            previous_action=spec.action.none(num_slots),
            first=np.zeros(num_slots, np.bool_),
            task_id=task_ids.copy(),
            slot=slots.copy(),
            policy_version=np.zeros(num_slots, np.int64),
            start=np.zeros(num_slots, np.int64),
            weight=np.ones(num_slots, np.float32),
        )

    def open(
        self, core_state: CoreState, previous_action: Array, first: BoolArray, policy_version: int, start: int
    ) -> None:
        """Note with what the policy acts on the first entry."""
        for stored, array in zip(self.unroll.core_state, core_state, strict=True):
            stored[...] = array
        self.unroll.previous_action[...] = previous_action
        self.unroll.first[...] = first
        self.unroll.policy_version[...] = policy_version
        self.unroll.start[...] = start

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
        """Store the action in effect after entry ``t``, who chose it, and what the policy left for the learner."""
        self.unroll.action[t] = action
        self.unroll.foreign[t] = foreign
        for key, output in answer.policy_outputs.items():
            self.unroll.policy_outputs[key][t] = output


def unroll_bytes(spec: EnvSpec, policy_outputs: Mapping[str, ArraySpec], unroll_length: int, core_numbers: int) -> int:
    """Bytes of an unroll of one slot, as ``UnrollBuffer`` holds it.

    Args:
        spec: of the environment.
        policy_outputs: see ``Algorithm.policy_outputs``.
        unroll_length: T.
        core_numbers: of the core state, float32.
    """
    buffer = UnrollBuffer(spec, policy_outputs, 0, np.zeros(1, np.int64), np.zeros(1, np.int64), ())
    arrays = to_arrays(buffer.unroll)
    per_entry = sum(
        array.nbytes // len(array)
        for name, array in arrays.items()
        if name in TIME_MAJOR or name.startswith(("observation/", "policy_outputs/"))
    )
    once = sum(array.nbytes for array in arrays.values()) - per_entry + 4 * core_numbers
    return per_entry * (unroll_length + 1) + once


def num_slots(unroll: Unroll[Array]) -> int:
    """B of an unroll."""
    return len(unroll.slot)


def slice_slots(unroll: Unroll[Array], start: int, stop: int) -> Unroll[Array]:
    """Slots ``start`` to ``stop`` of an unroll, as views."""
    return combined([unroll], lambda a: a[0][:, start:stop], lambda a: a[0][start:stop])


def concatenate_slots(unrolls: Sequence[Unroll[Array]]) -> Unroll[Array]:
    """A fresh unroll that holds the slots of all ``unrolls``, in order."""
    return combined(unrolls, lambda a: np.concatenate(a, axis=1), lambda a: np.concatenate(a, axis=0))


def behind_burn_in(episode: Iterable[Unroll[Array]], steps: int) -> Iterator[Unroll[Array]]:
    """The consecutive unrolls of a whole episode, behind ``steps`` entries that are steps of nothing.

    Nothing of those is learned, and what a core state comes to over them ends with them. ``start`` counts from the
    first entry that is yielded.
    """
    start = 0
    for unroll in episode:
        if steps and start == 0:
            yield _blank_before(unroll, steps)._replace(start=np.zeros_like(unroll.start))
            start = steps
        yield unroll._replace(start=np.full_like(unroll.start, start))
        start += len(unroll.reward) - 1


def _blank_before(opening: Unroll[Array], steps: int) -> Unroll[Array]:
    entries = len(opening.reward)

    def blank(arrays: list[Array]) -> Array:
        first = arrays[0][: len(arrays[0]) - entries + 1]
        return np.concatenate([np.zeros((steps, *first.shape[1:]), first.dtype), first])

    before = combined([opening], blank, lambda arrays: arrays[0])
    before.foreign[:steps] = True
    before.truncated[steps - 1] = True
    return before


def to_arrays(unroll: Unroll[Array]) -> dict[str, Array]:
    """The unroll as named arrays, for a file."""
    arrays = {f"observation/{key}": array for key, array in unroll.observation.items()}
    arrays |= {f"policy_outputs/{key}": array for key, array in unroll.policy_outputs.items()}
    arrays |= {f"core_state/{i}": array for i, array in enumerate(unroll.core_state)}
    return arrays | {name: getattr(unroll, name) for name in TIME_MAJOR + PER_SLOT}


def from_arrays(arrays: dict[str, Array]) -> Unroll[Array]:
    """The inverse of ``to_arrays``."""
    core = section(arrays, "core_state/")
    return Unroll(
        observation=section(arrays, "observation/"),
        policy_outputs=section(arrays, "policy_outputs/"),
        core_state=tuple(core[str(i)] for i in range(len(core))),
        **{name: arrays[name] for name in TIME_MAJOR + PER_SLOT},
    )
