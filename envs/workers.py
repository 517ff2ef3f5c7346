"""Worker processes that step Python environments: where they hang, and how they end."""

from __future__ import annotations

import faulthandler
import functools
import multiprocessing
import os
import re
import signal
import tempfile
import threading
import time
import traceback
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec as GymnasiumSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from machina.envs.declared import DeclaredEnv

STACK_ROOM = 1 << 17
"""Bytes of the stacks' file for one worker: faulthandler writes at most 100 frames, of 100 bytes or so."""

STACKS_TIMEOUT_S = 0.8
"""How long stacks are waited for; a worker writes its own in milliseconds, if it runs at all."""

END_TIMEOUT_S = 1.0
"""How long workers that were asked to end, or killed, are waited for."""

ORPHAN_S = 3.0
"""How long a worker may live after its parent: a sound one closes its environment and ends by itself."""

_FRAME = re.compile(r'^ *File "(.+)", line (\d+) in (.+)$', re.MULTILINE)


class WorkerEnvs(AsyncVectorEnv[Any, Any]):
    """Environments, each in a process of its own, observations in shared memory.

    Workers come from a fork server: forking this process is unsafe once torch has started threads,
    and a server that has loaded gymnasium starts workers several times faster than fresh interpreters.
    """

    def __init__(self, spec: GymnasiumSpec, num_slots: int, name: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", "gymnasium"])
        descriptor, path = tempfile.mkstemp(prefix="machina-stacks-")
        self._stacks = os.fdopen(descriptor, "rb")
        self._read = [0] * num_slots
        make = functools.partial(_make_in_worker, spec, name, os.getpid(), path)
        try:
            super().__init__(
                [functools.partial(make, slot) for slot in range(num_slots)],
                shared_memory=True,
                context="forkserver",
                autoreset_mode=AutoresetMode.NEXT_STEP,
            )
        finally:
            # Every worker has opened it by now, and nothing stays behind whatever ends this process.
            os.unlink(path)

    def stacks(self) -> str:
        """The Python stack of each worker that is in its environment just now, within a second.

        Called from another thread than the one that waits for the workers. The signal's handler is C code, so the
        stack comes from environments that hang in native code too.
        """
        asked = [slot for slot in range(self.num_envs) if self._is_awaited(slot) and self._signal(slot)]
        deadline = time.monotonic() + STACKS_TIMEOUT_S
        dumps = {slot: self._read_dump(slot) for slot in asked}
        while not all(map(_is_whole, dumps.values())) and time.monotonic() < deadline:
            time.sleep(0.01)
            dumps |= {slot: self._read_dump(slot) for slot, dump in dumps.items() if not _is_whole(dump)}
        for slot, dump in dumps.items():
            self._read[slot] += len(dump)
        return "".join(self._told(slot, dump) for slot, dump in dumps.items())

    def close_at_once(self) -> None:
        """End the workers, also while another thread waits for them."""
        end_workers(self)
        self._stacks.close()

    def _is_awaited(self, slot: int) -> bool:
        """False for a worker whose answer lies in its pipe, or that is gone."""
        pipe = self.parent_pipes[slot]
        try:
            return pipe is not None and self.processes[slot].is_alive() and not pipe.poll()
        except OSError:  # closed
            return False

    def _signal(self, slot: int) -> bool:
        try:
            os.kill(self.processes[slot].pid or 0, signal.SIGUSR1)
        except ProcessLookupError:
            return False
        return True

    def _read_dump(self, slot: int) -> str:
        """What a worker wrote since the last call; faulthandler writes ASCII."""
        read = self._read[slot]
        dump = os.pread(self._stacks.fileno(), STACK_ROOM - read, slot * STACK_ROOM + read)
        return dump.rstrip(b"\0").decode("ascii")

    def _told(self, slot: int, dump: str) -> str:
        title = f"slot {slot}, process {self.processes[slot].pid}"
        if not dump:
            return f"{title}: no stack came within {STACKS_TIMEOUT_S:g} s\n"
        frames = _environment_frames(dump)
        return f"{title}, most recent call last:\n{''.join(frames.format())}" if frames else ""


def end_workers(env: AsyncVectorEnv[Any, Any]) -> None:
    """End the worker processes without waiting for a step in progress; none is left alive.

    ``AsyncVectorEnv.close`` first collects the pending step, which would raise a worker's error or
    block. A thread that waits for a worker wakes with EOFError.
    """
    for process in env.processes:
        process.terminate()
    deadline = time.monotonic() + END_TIMEOUT_S
    for process in env.processes:
        process.join(timeout=max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
    for process in env.processes:
        process.join(timeout=END_TIMEOUT_S)
    for pipe in env.parent_pipes:
        if pipe is not None:
            pipe.close()
    env.closed = True


def _make_in_worker(spec: GymnasiumSpec, name: str, parent: int, path: str, slot: int) -> gymnasium.Env[Any, Any]:
    """The environment of one worker; AsyncVectorEnv also calls this once in the parent to read the spaces."""
    if os.getpid() != parent:
        # Ctrl-C reaches every process of the terminal; only the parent decides what it means.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stacks = os.open(path, os.O_WRONLY)
        os.lseek(stacks, slot * STACK_ROOM, os.SEEK_SET)
        faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=False)
        threading.Thread(target=_end_with_parent, daemon=True).start()
    return DeclaredEnv(gymnasium.make(spec), name)


def _end_with_parent() -> None:
    """A worker reads of its parent's death only when it waits for a command; one that hangs never would."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    time.sleep(ORPHAN_S)
    os._exit(1)


def _is_whole(dump: str) -> bool:
    """Whether faulthandler has come to gymnasium's loop, below which nothing is of interest, or to its limit."""
    return "in _async_worker\n" in dump or dump.endswith("  ...\n")


def _environment_frames(dump: str) -> traceback.StackSummary | None:
    """The frames above gymnasium's loop, most recent last; None for a worker that only waits for a command."""
    frames = []
    for file, line, name in _FRAME.findall(dump):
        if name == "_async_worker":
            break
        frames.append((file, int(line), name, None))
    if all("multiprocessing" in file for file, *_ in frames):
        return None
    return traceback.StackSummary.from_list(frames[::-1])
