"""Mailboxes to any object: calls are answered in their order, in this thread and from another process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from machina.errors import RunFailedError, UserError
from machina.handles import Handle, HandleFaultError, InlineHandle, ProcessHandle


class Counter:
    """Something with a state."""

    def __init__(self, start: int) -> None:
        self._count = start

    def add(self, *numbers: int) -> int:
        self._count += sum(numbers)
        return self._count

    def process(self) -> int:
        return os.getpid()

    def echo(self, data: bytes) -> bytes:
        return data

    def refuse(self) -> None:
        raise UserError("count=7: too many; use 6")

    def fail(self) -> None:
        raise ZeroDivisionError("of nothing")

    def die(self) -> None:
        os._exit(3)


def nothing() -> None:
    """No preparation."""


def inline() -> Handle:
    return InlineHandle(lambda: Counter(10), "counter")


def in_process() -> Handle:
    return ProcessHandle(nothing, lambda: Counter(10), "counter", threads=1)


@pytest.fixture
def remote() -> Iterator[Handle]:
    """A counter in a process of its own, until the test ends."""
    handle = in_process()
    yield handle
    handle.kill()


def answer(handle: Handle) -> object:
    assert handle.has_answered(60)
    return handle.answer()


@pytest.mark.parametrize("make", [inline, in_process])
def test_calls_are_answered_in_their_order(make: Callable[[], Handle]) -> None:
    handle = make()
    try:
        for numbers in ((1,), (2, 3), ()):
            handle.call("add", *numbers)
        assert [answer(handle) for _ in range(3)] == [11, 16, 16]
        handle.call("process")
        assert (answer(handle) == os.getpid()) == (make is inline)
    finally:
        handle.kill()


def test_what_a_method_raises_in_another_process_is_raised_here(remote: Handle) -> None:
    remote.call("refuse")
    with pytest.raises(UserError, match=r"^count=7: too many; use 6$"):
        answer(remote)
    remote.call("fail")
    with pytest.raises(RunFailedError, match=r"counter stopped: ZeroDivisionError: of nothing") as caught:
        answer(remote)
    assert "in fail" in caught.value.details
    remote.call("add", 1)
    assert answer(remote) == 11, "it lives on"
    remote.call("die")
    with pytest.raises(HandleFaultError, match=r"^counter ended with exit code 3$") as fault:
        answer(remote)
    assert fault.value.died


def test_calls_and_answers_larger_than_a_pipe_holds_do_not_wait_for_each_other(remote: Handle) -> None:
    """A batch and parameters are megabytes; the next batch is sent while the object still sends its last answer."""
    sent = [bytes([number]) * 4_000_000 for number in range(3)]
    for data in sent:
        remote.call("echo", data)
    assert [answer(remote) for _ in sent] == sent


def test_an_object_that_hangs_is_called_without_waiting(remote: Handle) -> None:
    """Whoever waits for its answer does so for a limited time."""
    remote.call("process")
    process = answer(remote)
    assert isinstance(process, int)
    os.kill(process, signal.SIGSTOP)
    remote.call("echo", bytes(4_000_000))
    assert not remote.has_answered(0.2)


def test_what_ends_all_processes_of_a_terminal_does_not_end_the_object(remote: Handle) -> None:
    """``timeout`` and batch systems send SIGTERM to a whole group; the caller decides when its objects end."""
    remote.call("process")
    process = answer(remote)
    assert isinstance(process, int)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(process, number)
    remote.call("add", 1)
    assert answer(remote) == 11


def test_a_program_that_forgets_an_object_ends_all_the_same() -> None:
    program = (
        "from machina.handles import ProcessHandle\n"
        "if __name__ == '__main__':\n"
        "    handle = ProcessHandle(list, list, 'list', threads=1)\n"
        "    handle.call('copy')\n"
        "    assert handle.has_answered(60)\n"
        "    print(handle.answer())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
    assert not done.stderr
