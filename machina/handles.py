"""Mailboxes to an object: in this thread, in a process of this machine, or (``machina.cluster.workers``) of a cluster.

Whoever holds a handle calls methods by name and takes the answers in the order of the calls. The learner group speaks
to its ranks this way.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Protocol

import cloudpickle

from machina.errors import RanksBrokenError, RunFailedError, UserError, stopped
from machina.processes import exit_in_words


class HandleFaultError(Exception):
    """The object is gone: its process died, hangs, or the object itself lost those that it works with.

    Args:
        message: one line.
        died: whether this object's process is the culprit.
    """

    def __init__(self, message: str, died: bool = False) -> None:
        super().__init__(message)
        self.died = died


class Handle(Protocol):
    """The caller's end. Calls are answered in their order."""

    name: str

    def call(self, method: str, *arguments: Any) -> None:
        """Ask for a method of the object."""
        ...

    def has_answered(self, timeout_s: float) -> bool:
        """Whether the oldest unanswered call has its answer, or the object is known to be dead; waits for that."""
        ...

    def answer(self) -> Any:
        """What the oldest unanswered call came to, once ``has_answered``.

        Raises:
            HandleFaultError: the object is dead, or lost those that it works with.
            UserError, RunFailedError: what the method raised.
        """
        ...

    def kill(self) -> None:
        """End the object's process."""
        ...


class InlineHandle:
    """An object in the caller's thread: it answers at once.

    Args:
        make: builds the object.
        name: for messages.
    """

    def __init__(self, make: Callable[[], object], name: str) -> None:
        self.name = name
        self._object = make()
        self._answers: deque[Any] = deque()

    def call(self, method: str, *arguments: Any) -> None:
        """Run the method now."""
        self._answers.append(getattr(self._object, method)(*arguments))

    def has_answered(self, timeout_s: float) -> bool:  # noqa: ARG002 (nothing to wait for)
        """Always."""
        return True

    def answer(self) -> Any:
        """What the oldest unanswered call came to."""
        return self._answers.popleft()

    def kill(self) -> None:
        """Nothing is to be stopped."""


class ProcessHandle:
    """An object in a process of this machine; calls and answers go through a pipe.

    Calls are sent by a thread: a pipe holds 200 kB, and an object that is sending an answer, or hangs, reads nothing.

    Args:
        prepare: makes the process like this one (registered names); called there first.
        make: builds the object, in that process, at the first call.
        name: of the process, for messages.
        threads: torch threads.
    """

    def __init__(self, prepare: Callable[[], None], make: Callable[[], object], name: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, theirs = context.Pipe()
        # Functions that a script registered travel by value; the standard pickle knows only names.
        recipe = cloudpickle.dumps((prepare, make))
        self.process = context.Process(target=_serve, args=(recipe, name, threads, theirs), name=name, daemon=True)
        self.process.start()
        theirs.close()
        # At the end of a program, multiprocessing sends SIGTERM, which the process ignores, and waits indefinitely.
        atexit.register(self.process.kill)
        self._calls: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send, name=f"calls to {name}", daemon=True)
        self._sender.start()

    def call(self, method: str, *arguments: Any) -> None:
        """Send the call, whose arguments may change afterwards; ``answer`` finds out whether the object is dead."""
        self._calls.put(cloudpickle.dumps((method, arguments)))

    def _send(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                self._pipe.send_bytes(call)
            except OSError:
                return

    def has_answered(self, timeout_s: float) -> bool:
        """Whether something is in the pipe, or its other end is gone."""
        return self._pipe.poll(timeout_s)

    def answer(self) -> Any:
        """What the oldest unanswered call came to."""
        try:
            answer = cloudpickle.loads(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            self.process.join(1)
            code = self.process.exitcode
            end = "left its pipe" if code is None else exit_in_words(code)
            raise HandleFaultError(f"{self.name} {end}", died=True) from error
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def kill(self) -> None:
        """End the process."""
        atexit.unregister(self.process.kill)
        self.process.kill()
        self.process.join(5)
        self._calls.put(None)
        self._sender.join(5)
        self._pipe.close()


def _serve(recipe: bytes, name: str, threads: int, pipe: Connection) -> None:
    """An object's process: answer calls until the caller is gone."""
    from machina.hardware import tune_process

    # Ctrl-C, the terminal's end and what `timeout` or a batch system sends reach every process; the caller says when.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    tune_process(threads)
    made: object | None = None
    while True:
        try:
            method, arguments = cloudpickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)  # a collective that hangs in another thread must not hold the process
        try:
            if made is None:
                prepare, make = cloudpickle.loads(recipe)
                prepare()
                made = make()
            answer = getattr(made, method)(*arguments)
        except BaseException as error:
            answer = as_answer(error, name)
        try:
            pipe.send_bytes(cloudpickle.dumps(answer))
        except OSError:
            os._exit(0)


def as_answer(error: BaseException, name: str) -> Exception:
    """What the caller gets for what a method of the object with this name raised."""
    if isinstance(error, UserError | RunFailedError | HandleFaultError):
        return error
    if isinstance(error, RanksBrokenError):
        return HandleFaultError(str(error))
    return stopped(name, error)
