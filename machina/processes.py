"""Processes: their generators, their beginning, and the end of all that environments start in them.

Simulators, servers and whatever else is started is found and ended, so that none outlives a run.

A process is found by its ancestors and by a mark in the environment variables that it inherits. The mark finds those,
too, that were left by their parent or went into a session of their own. Only Linux shows both.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from multiprocessing.forkserver import _forkserver
from multiprocessing.resource_tracker import _resource_tracker
from pathlib import Path

RUN_MARK = "MACHINA_STARTED_BY_RUN"
"""In the environment of all processes that a command starts."""

WORKER_MARK = "MACHINA_STARTED_BY_WORKER"
"""In the environment of all processes that an environment in a worker process starts."""

END_PATIENCE_S = 1.0
"""How long a process may take to end by SIGTERM."""

NO_GUARD_EXIT = 79
"""Exit code of a worker process that imports a program which begins a run as it is imported."""

_POLL_S = 0.01

_MOST_LOOKS = 20
"""Where one process keeps starting others, somebody has to give way."""


def new_mark() -> str:
    """A value that no other process has."""
    return f"{os.getpid()}-{time.time_ns()}"


def started_by(pids: Collection[int], variable: str, marks: Iterable[str]) -> set[int]:
    """The living descendants of processes, and all processes that carry a mark, with their descendants.

    Args:
        pids: the processes; not part of the result.
        variable: ``RUN_MARK`` or ``WORKER_MARK``.
        marks: its values.
    """
    entries = {f"{variable}={mark}".encode() for mark in marks}
    parents: dict[int, int] = {}
    found = set(pids)
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):  # it ended meanwhile, or is another user's
            number = int(folder.name)
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state == "Z":
                continue
            parents[number] = int(parent)
            if not entries.isdisjoint((folder / "environ").read_bytes().split(b"\0")):
                found.add(number)
    size = 0
    while size < len(found):
        size = len(found)
        found |= {number for number, parent in parents.items() if parent in found}
    # Python's own helpers end, and give back shared memory and semaphores, when this process has ended.
    helpers = {getattr(_resource_tracker, "_pid", None), getattr(_forkserver, "_forkserver_pid", None)}
    return (found & parents.keys()) - set(pids) - {os.getpid()} - helpers


def end_started_by(pids: Collection[int], variable: str, marks: Iterable[str]) -> None:
    """End all that ``started_by`` returns, and what is started meanwhile: a thread may be in the middle of building
    games."""
    marks = list(marks)
    for _ in range(_MOST_LOOKS):
        started = started_by(pids, variable, marks)
        if not started:
            return
        end(started)


def end(pids: Iterable[int]) -> None:
    """End processes that are no children of this one: by SIGTERM, after ``END_PATIENCE_S`` by SIGKILL."""
    alive = {pid for pid in pids if _signal(pid, signal.SIGTERM)}
    deadline = time.monotonic() + END_PATIENCE_S
    while alive and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        alive = {pid for pid in alive if is_alive(pid)}
    for pid in alive:
        _signal(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def exit_in_words(code: int) -> str:
    """How a child process ended, by multiprocessing's exit code."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # most of the real-time ones have no name
        name = f"signal {-code}"
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def _signal(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except OSError:
        return False
    return True


def seed_generators(*entropy: int) -> None:
    """Seed the generators that all code of a process shares: Python's, numpy's and, where it is loaded, torch's."""
    import random

    import numpy as np

    seed = int(np.random.SeedSequence([number % 2**64 for number in entropy]).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)


def refuse_second_run() -> None:
    """Called where a run begins: a worker process that imports a program without a guard ends here, silently.

    The process that started the worker informs the user, see ``no_guard``.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(NO_GUARD_EXIT)


def no_guard() -> str:
    """The message for a user whose program has no guard."""
    program = getattr(sys.modules["__main__"], "__file__", None) or "the program"
    return (
        f'worker processes can\'t import {program}: put what it runs under `if __name__ == "__main__":`, so that '
        "importing it starts no second run"
    )
