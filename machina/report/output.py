"""Standard output that may fail: the reader goes away, the disk is full, the terminal is closed. The run continues."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


class SteadyStream:
    """A text stream on which nothing that is written raises an ``OSError``; the first of a kind is reported on stderr.

    Args:
        stream: where the text goes as long as it can.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._reported: set[int | None] = set()

    def write(self, text: str) -> int:
        """Write what can be written."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._fail(error)
            return len(text)

    def flush(self) -> None:
        """Flush what can be flushed; what is kept is tried again with the next write."""
        try:
            self._stream.flush()
        except OSError as error:
            self._fail(error)

    def finish(self) -> None:
        """Write the last of it, or let go of it, so that the end of the process finds nothing that it can't write."""
        try:
            self._stream.flush()
        except OSError as error:
            self._fail(error)
            self._let_go()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _fail(self, error: OSError) -> None:
        if error.errno == errno.EPIPE:
            self._let_go()
        if error.errno in self._reported:
            return
        self._reported.add(error.errno)
        what = f"the output can't be written ({error.strerror or error})"
        if error.errno == errno.EPIPE:
            what = "nobody reads the output any more"
        with suppress(OSError):  # it may go the same way
            print(f"machina: {what}; the run continues", file=sys.__stderr__, flush=True)

    def _let_go(self) -> None:
        """From now on the text goes nowhere."""
        with suppress(OSError, ValueError):  # a stream without a descriptor
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            self._stream.flush()


@contextmanager
def steady_output() -> Iterator[None]:
    """Meanwhile no print fails: ours, a library's or an environment's."""
    former = sys.stdout, sys.stderr
    steady = SteadyStream(sys.stdout), SteadyStream(sys.stderr)
    sys.stdout, sys.stderr = (cast(TextIO, stream) for stream in steady)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = former
        for stream in steady:
            stream.finish()
