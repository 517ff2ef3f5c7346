"""The live view of a run: a screen on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from machina.report.screen import RunFacts, RunMoment, TaskRow, final_lines, plain_line, render

if TYPE_CHECKING:
    from rich.live import Live
    from rich.status import Status

SCREEN_PERIOD_S = 0.5
LINE_PERIOD_S = 10.0
STARTUP_LINE_PERIOD_S = 5.0
NOTICES = 3
"""Latest notices kept on the screen."""


def is_screen(console: Console) -> bool:
    """Whether the output is a terminal that can be redrawn."""
    return console.is_terminal and not console.is_dumb_terminal


class StartupProgress:
    """Shows what a run does before its first update; any thread may call ``show``."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._status: Status | None = None
        self._stage = self._printed = ""
        self._printed_at = 0.0

    def __enter__(self) -> StartupProgress:
        if is_screen(self._console):
            self._status = self._console.status("starting")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            if self._status is not None:
                self._status.stop()

    def show(self, stage: str, done: int | None = None, total: int | None = None) -> None:
        """Say what is being done, such as ``show("starting environments", 120, 228)``."""
        text = stage if done is None or total is None else f"{stage} {done}/{total}"
        with self._lock:
            if self._status is not None:
                self._status.update(f"{escape(text)}  [dim]{time.monotonic() - self._started:.0f} s[/dim]")
                return
            now = time.monotonic()
            complete = done is not None and done == total and text != self._printed
            if stage != self._stage or complete or now - self._printed_at >= STARTUP_LINE_PERIOD_S:
                self._stage, self._printed, self._printed_at = stage, text, now
                _print_plain(self._console, text)


class LiveView:
    """Shows a run while it trains; leave it with ``close`` or as a context manager."""

    def __init__(self, facts: RunFacts, console: Console | None = None) -> None:
        self.console = console or Console()
        self._facts = facts
        self._notices: deque[str] = deque(maxlen=NOTICES)
        self._shown_at = -LINE_PERIOD_S
        self._moment: RunMoment | None = None
        self._shown: RunMoment | None = None
        self._live: Live | None = None
        if not is_screen(self.console):
            for name, value in facts._asdict().items():
                if value:
                    _print_plain(self.console, f"{name}: {value}")

    def __enter__(self) -> LiveView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def due(self) -> bool:
        """Whether ``update`` would show anything now; saves making a moment that nobody sees."""
        period = SCREEN_PERIOD_S if is_screen(self.console) else LINE_PERIOD_S
        return time.monotonic() - self._shown_at >= period

    def update(self, moment: RunMoment) -> None:
        """Show ``moment`` when the next picture or line is due."""
        self._moment = moment
        if not self.due:
            return
        self._shown_at = time.monotonic()
        if is_screen(self.console):
            self._draw(moment)
        else:
            self._print_line(moment)

    def notice(self, text: str) -> None:
        """Show an event at once: a replaced environment, a best evaluation, a full disk."""
        if self._live is None:
            _print_plain(self.console, text)
            return
        self._notices.append(text)
        if self._moment is not None:
            self._draw(self._moment)

    def close(self) -> None:
        """Show the last moment and give the terminal back."""
        moment, self._moment = self._moment, None
        if self._live is not None:
            if moment is not None:
                self._draw(moment)
            self._live.stop()
            self._live = None
        elif moment is not None and moment is not self._shown:
            self._print_line(moment)

    def final(
        self, run: Path, reason: str, tasks: Sequence[TaskRow], *, league: bool = False, complete: bool = False
    ) -> None:
        """Close, then print why the run ended, its training returns and what can be done with it."""
        self.close()
        width = self.console.width
        for line in final_lines(self._facts, run, reason, tasks, width, league=league, complete=complete):
            self.console.print(line, soft_wrap=True)

    def _print_line(self, moment: RunMoment) -> None:
        self._shown = moment
        _print_plain(self.console, plain_line(moment))

    def _draw(self, moment: RunMoment) -> None:
        from rich.live import Live

        if self._live is None:
            # Drawn by hand: Live's own refresh thread would compete with the actors for the interpreter.
            self._live = Live(console=self.console, auto_refresh=False, vertical_overflow="crop")
            self._live.start()
        width, height = self.console.size
        picture = render(self._facts, moment, list(self._notices), width, height - 1)
        self._live.update(picture, refresh=True)


def _print_plain(console: Console, text: str) -> None:
    """One line as it is: no wrapping, no markup, no highlighting."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)
