"""Another checkout, compared with this one in turns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

THIS = Path(__file__).resolve().parent.parent


def checkout_at(path: Path) -> Path:
    """The root of a checkout.

    Raises:
        SystemExit: there is none.
    """
    root = path.resolve()
    if not (root / "machina" / "__main__.py").is_file():
        sys.exit(f"other '{path}' is no checkout of Machina; give its root")
    return root


def in_turns(other: Callable[[], float], this: Callable[[], float], pairs: int) -> Iterator[tuple[float, float]]:
    """Measurements of both, pair by pair; which comes first alternates, so that no trend of the machine favours one."""
    for pair in range(pairs):
        if pair % 2:
            of_this = this()
            yield other(), of_this
        else:
            yield other(), this()
