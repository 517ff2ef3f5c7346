"""Ctrl-C, SIGTERM and a closed terminal during a run."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ABORTING = (signal.SIGINT, signal.SIGTERM)
"""Whoever sends a second one wants the end at once."""


@contextmanager
def handled_signals(request_stop: Callable[[str], None]) -> Iterator[None]:
    """First SIGINT, SIGTERM or SIGHUP: stop after this update and save. Then SIGINT or SIGTERM: abort at once.

    A terminal that is closed sends SIGHUP, its shell as a rule another one: that is no wish for an abort. Where SIGHUP
    is ignored, as below nohup, it stays so.
    """

    def stop(number: int, _: FrameType | None) -> None:
        for each in ABORTING:
            signal.signal(each, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        request_stop(f"{signal.Signals(number).name} received")

    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    handled = ABORTING if ignored else (*ABORTING, signal.SIGHUP)
    try:
        former = {number: signal.signal(number, stop) for number in handled}
    except ValueError:  # not the main thread: signals stay with what runs there
        yield
        return
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
