"""Worker processes that step Python environments: where they hang, how they die, and how they end."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import tempfile
import time
import traceback
from collections.abc import Iterable, Sequence
from contextlib import suppress
from multiprocessing import forkserver
from typing import Any

from gymnasium.envs.registration import EnvSpec as GymnasiumSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState

from machina.envs.infos import MergedInfos
from machina.envs.worker_process import SIGNALS, STACK_ROOM, Maker, Worker, serve
from machina.errors import EnvironmentFaultError, UserError
from machina.processes import NO_GUARD_EXIT, WORKER_MARK, end, exit_in_words, new_mark, no_guard, started_by

STACKS_TIMEOUT_S = 0.8
"""How long stacks are waited for; a worker writes its own in milliseconds, if it runs at all."""

CLOSE_TIMEOUT_S = 5.0
"""How long a worker that was asked to close its environment is waited for before it is killed."""

STEP_TIMEOUT_S = 1.0
"""How long one is waited for that has to come out of a step first."""

DEATH_TIMEOUT_S = 1.0
"""How long the exit code of a worker that left its pipe is waited for."""

_FRAME = re.compile(r'^ *File "(.+)", line (\d+) in (.+)$', re.MULTILINE)


class WorkerEnvs(MergedInfos, AsyncVectorEnv[Any, Any]):
    """Environments, each in a process of its own, observations in shared memory.

    Workers come from a fork server: forking this process is unsafe once torch has started threads,
    and a server that has loaded gymnasium starts workers several times faster than fresh interpreters.

    Args:
        spec: of the environment.
        num_slots: how many.
        name: of the environment, such as ``module:Env-v0``.
        keep_infos: see ``machina.envs.declared.DeclaredEnv``.

    Raises:
        EnvironmentFaultError: a worker's environment can't be built, or a worker died.
        UserError: workers can't start, because the program has no guard.
    """

    def __init__(self, spec: GymnasiumSpec, num_slots: int, name: str, keep_infos: bool) -> None:
        _start_fork_server()
        descriptor, path = tempfile.mkstemp(prefix="machina-stacks-")
        self._stacks = os.fdopen(descriptor, "rb")
        self._read = [0] * num_slots
        self._name = name
        mark = new_mark()
        self._marks = [f"{mark}-{slot}" for slot in range(num_slots)]
        try:
            worker: Any = Worker(Maker(spec, name, keep_infos), path, self._marks)
            live: Any = serve  # gymnasium's types say of the shared memory that it is a bool
            super().__init__(
                [worker] * num_slots,
                shared_memory=True,
                context="forkserver",
                autoreset_mode=AutoresetMode.NEXT_STEP,
                worker=live,
            )
        except BaseException as error:
            self.processes = [process for process in getattr(self, "processes", []) if process.pid is not None]
            self.parent_pipes = getattr(self, "parent_pipes", [])
            self.close()
            if isinstance(error, EOFError | ConnectionError):  # the fork server, which imports the program, ended
                raise UserError(no_guard()) from None
            raise
        finally:
            # Every worker has opened it by now, and nothing stays behind whatever ends this process.
            os.unlink(path)

    def reset(self, **options: Any) -> Any:
        """As gymnasium's; raises ``EnvironmentFaultError`` for what a worker raised, or for one that died."""
        return self._answered(super().reset, **options)

    def step(self, actions: Any) -> Any:
        """As gymnasium's; raises as ``reset`` does."""
        return self._answered(super().step, actions)

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        """As gymnasium's; raises as ``reset`` does."""
        return self._answered(super().call, name, *arguments, **options)

    def _check_spaces(self) -> None:
        """Gymnasium's hook; the first that is asked of a new worker."""
        self._answered(super()._check_spaces)

    def _answered(self, ask: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return ask(*arguments, **options)
        except (EOFError, OSError) as error:
            death = self._death()
            raise death from (None if isinstance(death, UserError) else error)

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        """Gymnasium's hook: what workers raised lies in their queue. Gymnasium prints a traceback of each."""
        faults = [self.error_queue.get() for success in successes if not success]
        for slot, *_ in faults:
            self.parent_pipes[slot].close()
        if faults:
            self._state = AsyncState.DEFAULT
            raise faults[0][2]

    def _death(self) -> EnvironmentFaultError | UserError:
        """Which worker is dead, and of what."""
        deadline = time.monotonic() + DEATH_TIMEOUT_S
        message = "a worker process left its pipe"
        while time.monotonic() < deadline:
            codes = [process.exitcode for process in self.processes]
            if NO_GUARD_EXIT in codes:
                return UserError(no_guard())
            if dead := [(slot, code) for slot, code in enumerate(codes) if code is not None]:
                message = f"worker process of slot {dead[0][0]} {exit_in_words(dead[0][1])}"
                break
            time.sleep(0.01)
        return EnvironmentFaultError(f"environment {self._name!r}: {message}")

    def stacks(self) -> str:
        """The Python stack of each worker that is in its environment at this moment, within a second.

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
        return "".join(self._titled(slot, dump) for slot, dump in dumps.items())

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:  # noqa: ARG002
        """Gymnasium's hook of ``close``: end the workers, also while another thread waits for them."""
        end_workers(self, self._marks)
        self._stacks.close()

    def _is_awaited(self, slot: int) -> bool:
        """False for a worker whose reply is in its pipe, or that is gone."""
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

    def _titled(self, slot: int, dump: str) -> str:
        title = f"slot {slot}, process {self.processes[slot].pid}"
        if not dump:
            return f"{title}: no stack arrived within {STACKS_TIMEOUT_S:g} s\n"
        frames = _environment_frames(dump)
        return f"{title}, most recent call last:\n{''.join(frames.format())}" if frames else ""


def _start_fork_server() -> None:
    """Start what workers are forked from, if it does not run; what they can't handle yet is blocked in it."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["__main__", "gymnasium"])
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def end_workers(env: AsyncVectorEnv[Any, Any], marks: Sequence[str] = ()) -> None:
    """Let the worker processes close their environments, and end those that don't, with all that they started.

    ``AsyncVectorEnv.close`` first collects the pending step, which would raise a worker's error or
    block. A thread that waits for a worker wakes with EOFError.

    Args:
        env: of gymnasium's kind.
        marks: of what its workers' environments start, see ``machina.processes``.
    """
    busy = [_is_busy(env, pipe) for pipe in env.parent_pipes]
    for pipe in env.parent_pipes:
        with suppress(OSError):
            if pipe is not None:
                pipe.send(("close", None))
    asked = time.monotonic()
    for in_step, process in zip(busy, env.processes, strict=False):
        patience = STEP_TIMEOUT_S if in_step else CLOSE_TIMEOUT_S
        process.join(timeout=max(0.0, asked + patience - time.monotonic()))
    stuck = [process for process in env.processes if process.exitcode is None]
    if stuck or marks:
        started = started_by([process.pid for process in stuck if process.pid], WORKER_MARK, marks)
        for process in stuck:
            process.kill()
        end(started)
    for process in env.processes:
        process.join(timeout=DEATH_TIMEOUT_S)
    for pipe in env.parent_pipes:
        if pipe is not None:
            pipe.close()
    env.closed = True


def _is_busy(env: AsyncVectorEnv[Any, Any], pipe: Any) -> bool:
    """Whether a worker may be in a step."""
    try:
        return pipe is not None and getattr(env, "_state", None) != AsyncState.DEFAULT and not pipe.poll()
    except OSError:
        return False


def _is_whole(dump: str) -> bool:
    """Whether faulthandler has reached gymnasium's loop, below which nothing is of interest, or its limit."""
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
