"""Between the policy's actions and those that an environment takes, as arrays."""

from __future__ import annotations

import functools

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
