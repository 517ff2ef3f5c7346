"""Wrong input of a benchmark is one line, as that of a command is."""

from __future__ import annotations

import sys
from collections.abc import Callable

from machina.errors import UserError


def refusing(main: Callable[[], int | None]) -> None:
    """Run a script; what it refuses is printed without a traceback."""
    try:
        sys.exit(main())
    except UserError as error:
        print(f"{sys.argv[0]}: {error}", file=sys.stderr)
        sys.exit(2)
