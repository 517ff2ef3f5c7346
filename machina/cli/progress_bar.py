"""Progress of commands that play episodes or games: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_PERIOD_S = 10.0
"""As often as a training run writes one."""


@contextmanager
def progress_of(what: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """Yields what to call with (finished, in all).

    Args:
        what: is counted: ``episodes`` or ``games``.
        console: where it is shown.
    """
    if not console.is_terminal:
        yield _lines(what, console)
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(what: str, console: Console) -> Callable[[int, int], None]:
    shown_at = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at >= LINE_PERIOD_S:
            shown_at = time.monotonic()
            console.print(f"{what} {done:,} of {total:,}", highlight=False)

    return show
