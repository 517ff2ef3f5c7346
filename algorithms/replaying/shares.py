"""How much of every batch comes from a memory besides the agent's. Imports no torch."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

from machina.buffers.replay import Share

_NUMBER = r"(\d+(?:\.\d+)?(?:/\d+)?)"
_SHARE = re.compile(rf"\s*{_NUMBER}\s*(?:->\s*{_NUMBER}\s+over\s+(\d+))?\s*")


def parsed_share(text: str, memory: str) -> Share:
    """``1/256``, or ``1.0 -> 1/512 over 50000``: from one share to another over so many env steps.

    Raises:
        ValueError: it is neither, or a share is not above 0 and at most 1.
    """
    match = _SHARE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no share; write 1/256, 0.1 or '1.0 -> 1/512 over 50000' (env steps)")
    start, final, steps = match.groups()
    first, last = (float(Fraction(each)) for each in (start, final or start))
    if not (0 < first <= 1 and 0 < last <= 1):
        raise ValueError(f"{text!r}: a share must be above 0 and at most 1; leave the memory out for 0")
    return Share(memory, first, last, int(steps or 0))


def _checked(text: str, info: ValidationInfo) -> str:
    try:
        parsed_share(text, "")
    except ValueError as error:
        raise ValueError(f"{info.field_name}={error}") from error
    return text


ShareText = Annotated[str, AfterValidator(_checked)]
"""What ``parsed_share`` reads."""
