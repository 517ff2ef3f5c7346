"""What a replay's columns keep of an unroll."""

from __future__ import annotations

from typing import Any

import numpy as np

from machina.buffers.layout import FLAGS, OLDEST_AGE, Layout
from machina.types import OBSERVATION, Array, BoolArray, IntArray, Unroll


def entry_values(layout: Layout, unroll: Unroll[Array], slots: IntArray, ages: Array) -> dict[str, Array]:
    """What the columns keep of all entries, ``[T' + 1, k, ...]`` each, or what numpy spreads to it."""
    # A copy of what is large is saved where all slots are stored.
    chosen: Any = slice(None) if len(slots) == len(unroll.slot) else slots
    frames_before = layout.frames_before
    observation = {
        f"observation/{key}": (array[frames_before:] if key == OBSERVATION else array)[:, chosen]
        for key, array in unroll.observation.items()
    }
    outputs = {f"policy_outputs/{key}": array[:, chosen] for key, array in unroll.policy_outputs.items()}
    over_time = {name: getattr(unroll, name)[:, chosen] for name in ("action", "reward", *FLAGS)}
    per_slot = {name: getattr(unroll, name)[chosen] for name in ("task_id", "slot", "policy_version")}
    return observation | outputs | over_time | per_slot | {"age": ages}


def lead_values(layout: Layout, unroll: Unroll[Array], slots: IntArray) -> dict[str, Array]:
    """What the columns keep before entry 0: frames and the previous action, and nothing that happened."""
    none = {name: np.zeros((1, len(slots), *array.shape), array.dtype) for name, array in layout.columns().items()}
    observation = {f"observation/{key}": array[:1, slots] for key, array in unroll.observation.items()}
    if layout.frames_before:
        observation[f"observation/{OBSERVATION}"] = unroll.observation[OBSERVATION][: layout.frames_before, slots]
    per_slot = {name: getattr(unroll, name)[slots] for name in ("task_id", "slot", "policy_version")}
    return none | observation | per_slot | {"action": unroll.previous_action[slots]}


def ages(unroll: Unroll[Array], slots: IntArray, of_tails: Array, breaks: BoolArray) -> Array:
    """``[T' + 1, k]`` uint8: entries since the first of the episode, as far as it matters.

    Of an unroll that continues nothing the frames before its first entry are right as they are, however young the
    episode is.
    """
    before = np.where(unroll.first[slots], 0, np.where(breaks, OLDEST_AGE, of_tails))
    entries = np.arange(len(unroll.reward))[:, None]
    opens = (unroll.terminated | unroll.truncated)[:-1, slots]
    firsts = np.concatenate([-before[None].astype(np.int64), np.where(opens, entries[1:], -OLDEST_AGE)])
    return np.minimum(entries - np.maximum.accumulate(firsts, axis=0), OLDEST_AGE).astype(np.uint8)
