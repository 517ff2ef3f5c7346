"""Whether the arrays of a checkpoint are those that the run at hand would save."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from machina.errors import UserError
from machina.types import Array

_REMEDY = "environments, their number and unroll_length must equal the run's in place inline"


def check_arrays(
    saved: Mapping[str, Array], own: Mapping[str, Array], what: str, any_length: Mapping[str, int] | None = None
) -> None:
    """Refuse arrays of another run's shape.

    Args:
        saved: of a checkpoint.
        own: what this run would save.
        what: begins the message.
        any_length: by name the axis along which lengths may differ.

    Raises:
        UserError: a name, a shape or a format of numbers differs.
    """
    check_names(saved, own, what)
    for name, array in own.items():
        got = saved.get(name)
        if got is None:
            raise UserError(f"checkpoint: {what} lacks {name!r}; {_REMEDY}")
        free = (any_length or {}).get(name)
        shapes = [list(each.shape) for each in (got, array)]
        if free is not None and got.ndim == array.ndim:
            for shape in shapes:
                shape[free] = -1
        if shapes[0] != shapes[1] or got.dtype != array.dtype:
            raise UserError(
                f"checkpoint: {what} {name!r} is {got.dtype} {list(got.shape)}, this run's is {array.dtype} "
                f"{list(array.shape)}; {_REMEDY}"
            )


def check_names(saved: Collection[str], known: Collection[str], what: str) -> None:
    """Refuse arrays that this run does not have.

    Raises:
        UserError: one is unknown.
    """
    for name in saved:
        if name not in known:
            raise UserError(f"checkpoint: {what} has {name!r}, which this run does not know; {_REMEDY}")


def check_counter(array: Array, what: str) -> int:
    """A number that was counted.

    Raises:
        UserError: it is none.
    """
    if array.ndim or array.dtype != np.int64 or array < 0:
        raise UserError(f"checkpoint: {what} is not a counter; use another checkpoint")
    return int(array)
