"""The values that an option of numbers may have, read from its pydantic field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

OUT_OF_RANGE = (
    *("greater_than", "greater_than_equal", "less_than", "less_than_equal"),
    *("finite_number", "int_parsing_size", "int_from_float"),
)
"""Types of pydantic's errors."""

_Low = Ge | Gt | None
_High = Le | Lt | None


def number_range(field: FieldInfo) -> str:
    """The values that a number, or each number of several, may have, such as ``1 to 1024``; empty for other fields."""
    low, high = _bounds(field.metadata, field.annotation)
    if isinstance(low, Ge) and isinstance(high, Le):
        return f"{_shown(low.ge)} to {_shown(high.le)}"
    parts = []
    if low is not None:
        parts.append(f"{_shown(low.ge)} or more" if isinstance(low, Ge) else f"more than {_shown(low.gt)}")
    if high is not None:
        parts.append(f"at most {_shown(high.le)}" if isinstance(high, Le) else f"less than {_shown(high.lt)}")
    return ", ".join(parts)


def _bounds(metadata: Sequence[Any], annotation: Any) -> tuple[_Low, _High]:
    """The bounds of a field, or of what it holds several of or perhaps none."""
    low = next((each for each in metadata if isinstance(each, Ge | Gt)), None)
    high = next((each for each in metadata if isinstance(each, Le | Lt)), None)
    for part in get_args(annotation):
        if low is None and high is None:
            inner = [each for field in get_args(part) if isinstance(field, FieldInfo) for each in field.metadata]
            low, high = _bounds(inner, part)
    return low, high


def _shown(number: Any) -> str:
    """Without thousands separators: terminals break lines at them."""
    if isinstance(number, int) and (number < 10**6 or number % 10**6):
        return str(number)
    return f"{float(number):.10g}".replace("e+0", "e").replace("e+", "e")
