"""Between the policy's actions and those of a gymnasium action space."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from machina.errors import UserError
from machina.specs import ActionSpec, discrete
from machina.types import Array, BoolArray


def action_spec(name: str, space: spaces.Space[Any], bins: int | None = None) -> ActionSpec:
    """What the policy answers for an action space.

    Args:
        name: of the environment, for messages.
        space: of one slot.
        bins: cut every real number into so many choices, evenly from its low to its high.

    Raises:
        UserError: a space that no policy answers, or ``bins`` for one that has no bounded numbers.
    """
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        low, high = (tuple(float(number) for number in bound.reshape(-1)) for bound in (space.low, space.high))
        if bins is None:
            return ActionSpec(kind="continuous", low=low, high=high)
        if not np.isfinite([low, high]).all():
            raise UserError(f"environment {name!r}: action_bins={bins} needs bounded actions, the space is {space}")
        return ActionSpec(kind="multi_discrete", choices=(bins,) * len(low), low=low, high=high)
    if bins is not None:
        raise UserError(f"environment {name!r}: action_bins={bins} cuts real numbers, the action space is {space}")
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return discrete(int(space.n))
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and not np.any(space.start):
        return ActionSpec(kind="multi_discrete", choices=tuple(int(n) for n in space.nvec))
    raise UserError(
        f"environment {name!r}: action space {space} is none of Discrete and MultiDiscrete from 0, and Box of floats; "
        "turn it into one with a wrapper (--wrapper module:function)"
    )


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
        else bool(
            (actions >= 0).all() and (actions < np.asarray(spec.choices if spec.shape else spec.choices[0])).all()
        )
    )
    if not in_range:
        raise ValueError(f"actions must be {shape} of {spec}, got {actions}")
    return actions


def native_actions(spec: ActionSpec, actions: Array) -> Array:
    """Actions as the environment takes them: -1 to 1 is low to high, and nothing goes beyond.

    Numbers without bounds are passed on as they are.
    """
    if not spec.low:
        return actions
    low, high = np.asarray(spec.low, np.float32), np.asarray(spec.high, np.float32)
    if spec.kind == "multi_discrete":
        numbers = actions.astype(np.float32) * (2 / (np.asarray(spec.choices, np.float32) - 1)) - 1
    else:
        numbers = actions
    bounded = np.isfinite(low) & np.isfinite(high)
    with np.errstate(invalid="ignore"):  # infinite bounds, whose results are not taken
        scaled = low + (np.clip(numbers, -1, 1) + 1) * (0.5 * (high - low))
    return np.where(bounded, np.clip(scaled, low, high), numbers)


def random_actions(
    spec: ActionSpec, num_slots: int, generator: np.random.Generator, allowed: Array | None = None
) -> Array:
    """``[num_slots, *shape]``: uniform choices, of those ``allowed`` ``[num_slots, choices]``, or normal numbers."""
    if allowed is not None:
        return np.asarray(np.argmax(generator.random(allowed.shape) * allowed, axis=-1))
    if spec.kind == "continuous":
        return generator.standard_normal((num_slots, *spec.shape), np.float32)
    return generator.integers(0, spec.choices if spec.shape else spec.choices[0], (num_slots, *spec.shape))
