"""Waiting for foreign code no longer than is good."""

from __future__ import annotations

import queue
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from machina.errors import EnvironmentFaultError

T = TypeVar("T")


def within(timeout_s: float, work: Callable[[], T], what: str, undo: Callable[[T], None] | None = None) -> T:
    """What ``work`` returns, from a thread of its own that is left behind when it takes too long.

    Args:
        timeout_s: how long it may take.
        work: code that may hang; what it raises is raised here.
        what: for the message: ``environment 'mine:Env-v0': its constructor``.
        undo: called with a result that comes too late, or when the wait is interrupted.

    Raises:
        EnvironmentFaultError: it took longer; the error's ``details`` say where it is.
    """
    answers: queue.SimpleQueue[tuple[T] | BaseException] = queue.SimpleQueue()
    left = threading.Event()

    def run() -> None:
        try:
            answers.put((work(),))
        except BaseException as error:
            answers.put(error)
        if left.is_set():
            undo_late()

    def undo_late() -> None:
        with suppress(queue.Empty):  # not there yet, or undone by the other thread
            late = answers.get_nowait()
            if undo is not None and isinstance(late, tuple):
                undo(*late)

    # It works for the caller, under whose name others know it.
    thread = threading.Thread(target=run, name=threading.current_thread().name, daemon=True)
    thread.start()
    try:
        answer = answers.get(timeout=timeout_s)
    except BaseException as stop:
        stack = stack_of(thread, below=__file__)
        left.set()
        undo_late()
        if not isinstance(stop, queue.Empty):
            raise
        raise EnvironmentFaultError(f"{what} takes longer than {timeout_s:g} s", stack) from None
    if isinstance(answer, BaseException):
        raise answer
    return answer[0]


def stack_of(thread: threading.Thread, below: str) -> str:
    """Where a thread is: its Python stack from what the file ``below`` called on."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        return ""
    frames = traceback.extract_stack(frame)
    start = max((i + 1 for i, summary in enumerate(frames) if summary.filename == below), default=0)
    return f"thread {thread.name!r}, most recent call last:\n{''.join(traceback.format_list(frames[start:]))}"
