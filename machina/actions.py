"""Between the policy's actions and those that an environment takes, as arrays."""

from __future__ import annotations

import functools
import math

import numpy as np

from machina.specs import NO_BOUND, ActionSpec
from machina.types import Array, BoolArray


def without_choice(spec: ActionSpec, mask: BoolArray) -> BoolArray:
    """``[B]``: whose mask ``[B, num_parameters]`` allows nothing, in one component of the action at least."""
    first_choice = np.cumsum((0, *spec.choices[:-1]))
    has_choice: BoolArray = np.logical_or.reduceat(mask, first_choice, axis=1)
    result: BoolArray = np.logical_not(has_choice.all(axis=1))
    return result


def checked_actions(spec: ActionSpec, actions: Array, num_slots: int) -> Array:
    """``actions`` if they have the shape and range of the spec.

    Raises:
        ValueError: they have not; a fault of the policy, never of the environment.
    """
    shape = (num_slots, *spec.shape)
    in_range = actions.shape == shape and (
        np.isfinite(actions).all()
        if spec.kind == "continuous"
        else bool((actions >= 0).all() and (actions < np.asarray(spec.choices)).all())
    )
    if not in_range:
        raise ValueError(f"actions must be {shape} of {spec}, got {actions}")
    return actions


def native_actions(spec: ActionSpec, actions: Array) -> Array:
    """Actions as the environment takes them, numbers in the dtype of its space.

    Between two finite bounds -1 to 1 is low to high; other numbers are taken as they are. None goes beyond a finite
    bound.
    """
    if not spec.low:
        return actions
    low, high, bounded = _limits(spec)
    if spec.kind == "multi_discrete":
        way, whole = actions.astype(np.float64), np.asarray(spec.choices) - 1
    else:
        way, whole = np.clip(actions, -1, 1).astype(np.float64) + 1, np.asarray(2)
    numbers = (low * (whole - way) + high * way) / whole
    if not bounded.all():
        numbers = np.where(bounded, numbers, actions)  # without bounds the scale is arbitrary
    # The sum may miss a bound by a rounding.
    native: Array = np.clip(numbers, low, high).astype(spec.number_dtype)
    return native


def policy_actions(spec: ActionSpec, native: Array) -> Array:
    """The inverse of ``native_actions``: actions as an environment takes them, as the policy's.

    Numbers between two finite bounds become -1 to 1, or the nearest of the choices that they are cut into; others stay.

    Args:
        spec: of the actions.
        native: ``[B, *action.shape]``, also with axes of another shape but as many elements.

    Raises:
        ValueError: other shapes, a choice that there is not, or a number that is not finite.
    """
    actions = np.asarray(native)
    if actions.dtype.kind not in "biuf" or actions.size != len(actions) * math.prod(spec.shape):
        raise ValueError(f"actions are {actions.dtype}{list(actions.shape)}, expected {list(spec.shape)} each")
    actions = actions.reshape(len(actions), *spec.shape)
    if spec.low:
        low, high, bounded = _limits(spec)
        way = (actions.astype(np.float64) - low) / np.where(high > low, high - low, 1)
        if spec.kind == "multi_discrete":
            actions = np.rint(way * (np.asarray(spec.choices) - 1))
        else:
            actions = np.where(bounded, 2 * way - 1, actions)
    elif actions.dtype.kind == "f":
        raise ValueError(f"actions are {actions.dtype}, expected whole numbers")
    if not np.isfinite(actions).all():
        raise ValueError("an action is not finite")
    if spec.kind != "continuous" and (wrong := actions[(actions < 0) | (actions >= np.asarray(spec.choices))]).size:
        raise ValueError(f"action {wrong.flat[0]} is none of {' x '.join(map(str, spec.choices))} choices")
    return actions.astype(spec.dtype)


@functools.lru_cache(maxsize=64)
def _limits(spec: ActionSpec) -> tuple[Array, Array, BoolArray]:
    """The least and the greatest of each number, no more than float32 and its dtype hold, and which have two bounds."""
    low, high = np.asarray(spec.low), np.asarray(spec.high)
    largest = min(NO_BOUND, float(np.finfo(spec.number_dtype).max))
    return np.maximum(low, -largest), np.minimum(high, largest), np.isfinite(low) & np.isfinite(high)


def random_actions(
    spec: ActionSpec, num_slots: int, generator: np.random.Generator, allowed: Array | None = None
) -> Array:
    """``[num_slots, *shape]``: uniform choices, of those ``allowed`` ``[num_slots, choices]``, or normal numbers."""
    if spec.kind == "continuous":
        return generator.standard_normal((num_slots, *spec.shape), np.float32)
    if allowed is not None:
        components = np.split(generator.random(allowed.shape) * allowed, np.cumsum(spec.choices)[:-1], axis=1)
        return np.stack([each.argmax(axis=1) for each in components], axis=1).reshape(num_slots, *spec.shape)
    return generator.integers(0, spec.choices, (num_slots, *spec.shape))
