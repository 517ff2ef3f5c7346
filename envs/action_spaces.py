"""What a policy chooses for a gymnasium action space; ``machina.actions`` has what becomes of its choice."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from machina.envs.observations import WRAPPER_REMEDY
from machina.errors import UserError
from machina.specs import NO_BOUND, ActionSpec, discrete


def action_spec(
    name: str, space: spaces.Space[Any], bins: int | None = None, remedy: str = WRAPPER_REMEDY
) -> ActionSpec:
    """What the policy chooses for an action space.

    Args:
        name: of the environment, for messages.
        space: of one slot.
        bins: cut every real number into this many choices, evenly from its low to its high.
        remedy: what to do about a space that no policy can act in.

    Raises:
        UserError: a space that no policy can act in, or ``bins`` for one that has no bounded numbers.
    """
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        number_dtype = np.dtype(space.dtype).name
        low, high = _bounds(space, number_dtype)
        if bins is None:
            return ActionSpec(kind="continuous", low=low, high=high, number_dtype=number_dtype)
        if not np.isfinite([low, high]).all():
            raise UserError(
                f"environment {name!r}: action_bins={bins} needs bounded actions, the space is {space}; leave it out"
            )
        return ActionSpec(
            kind="multi_discrete", choices=(bins,) * len(low), low=low, high=high, number_dtype=number_dtype
        )
    if bins is not None:
        raise UserError(
            f"environment {name!r}: action_bins={bins} cuts real numbers, the action space is {space}; leave it out"
        )
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return discrete(int(space.n))
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and not np.any(space.start):
        return ActionSpec(kind="multi_discrete", choices=tuple(int(n) for n in space.nvec))
    raise UserError(
        f"environment {name!r}: action space {space} is neither Discrete nor MultiDiscrete from 0, nor a Box of "
        f"floats; {remedy}"
    )


def _bounds(space: spaces.Box, number_dtype: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Low and high of each number; infinite where there is none, or one as large as the dtype's largest number."""
    largest = min(NO_BOUND, float(np.finfo(number_dtype).max))
    low, high = space.low.ravel(), space.high.ravel()
    low, high = np.where(low <= -largest, -np.inf, low), np.where(high >= largest, np.inf, high)
    return tuple(low.tolist()), tuple(high.tolist())
