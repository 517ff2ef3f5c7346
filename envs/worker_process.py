"""What runs in a worker process: one environment, and what sees to it that nothing outlives it."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NamedTuple

import cloudpickle
import gymnasium
from gymnasium.vector import AutoresetMode
from gymnasium.vector.async_vector_env import _async_worker

from machina.envs.declared import DeclaredEnv
from machina.errors import RAISED, EnvironmentFaultError, in_one_line_with_place
from machina.plugins import load_module
from machina.processes import WORKER_MARK, end_started_by, seed_generators

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec as GymnasiumSpec

STACK_ROOM = 1 << 17
"""Bytes of the stacks' file for one worker: faulthandler writes at most 100 frames, of 100 bytes or so."""

ORPHAN_S = 3.0
"""How long a worker may live after its parent: a sound one closes its environment and ends by itself."""

SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
"""What reaches all processes of a terminal or of a job; blocked until a worker can handle them."""


class Maker:
    """Makes the environment of every slot, in a worker process or, for its spaces, in the parent.

    Args:
        spec: of the environment; travels by value, so that functions without a name of their own work as well.
        name: of the environment, such as ``module:Env-v0``.
        keep_infos: see ``machina.envs.declared.DeclaredEnv``.
    """

    def __init__(self, spec: GymnasiumSpec, name: str, keep_infos: bool) -> None:
        self.name = name
        self._keep_infos = keep_infos
        self._pickled = cloudpickle.dumps(spec)

    def __call__(self) -> DeclaredEnv:
        """A new environment.

        Raises:
            EnvironmentFaultError: it can't be built; the cause.
        """
        module = self.name.rpartition(":")[0]
        try:
            if module:  # what it registers, the environment may make in turn
                load_module(module, f"environment {self.name!r}")
            env = gymnasium.make(cloudpickle.loads(self._pickled))
        except RAISED as error:
            trace = "".join(traceback.format_exception(error))
            reason = in_one_line_with_place(error, module)
            raise EnvironmentFaultError(f"environment {self.name!r} can't be built: {reason}", trace) from error
        return DeclaredEnv(env, self.name, keep_infos=self._keep_infos, own_process=True)


class Worker(NamedTuple):
    """What a worker process needs besides gymnasium's arguments."""

    maker: Maker
    stacks: str
    """The file that stacks are written to."""
    marks: list[str]
    """Of what the environment of each slot starts."""

    def __call__(self) -> gymnasium.Env[Any, Any]:
        """In the parent, which reads the spaces."""
        return self.maker()


def serve(
    slot: int,
    worker: Any,
    pipe: Connection,
    parent_pipe: Connection,
    shared_memory: Any,
    error_queue: Any,
    autoreset_mode: AutoresetMode,
    semaphore: Any,
) -> None:
    """A worker's life, as gymnasium's ``AsyncVectorEnv`` calls it.

    What the environment's constructor raises is the reply to the first command, as gymnasium replies with what a step
    raises.
    """
    worker = worker.fn  # gymnasium wraps it for pickling
    _prepare(worker, slot)
    seed_generators(slot)  # of what the constructor draws; resets come with seeds of their own
    try:
        try:
            env = worker.maker()
        except EnvironmentFaultError as error:
            fault = EnvironmentFaultError(f"{error} (slot {slot})", error.details)
            parent_pipe.close()
            pipe.recv()
            error_queue.put((slot, EnvironmentFaultError, fault, fault.details))
            pipe.send((None, False))
            return
        _async_worker(slot, lambda: env, pipe, parent_pipe, shared_memory, error_queue, autoreset_mode, semaphore)
    except (EOFError, ConnectionError):  # the parent is gone
        pass
    finally:
        _end_what_was_started(worker.marks[slot])


def _prepare(worker: Worker, slot: int) -> None:
    mark = worker.marks[slot]
    # Ctrl-C and a closed terminal reach every process of the terminal; only the parent decides what they mean.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # So may SIGTERM, from a scheduler that ends all processes of a job: the parent has the time that it takes to close.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=_end_soon, args=(mark,), daemon=True).start())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.environ[WORKER_MARK] = mark
    stacks = os.open(worker.stacks, os.O_WRONLY)
    os.lseek(stacks, slot * STACK_ROOM, os.SEEK_SET)
    faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=False)
    threading.Thread(target=_end_with_parent, args=(mark,), daemon=True).start()


def _end_with_parent(mark: str) -> None:
    """A worker reads of its parent's death only when it waits for a command; one that hangs never would."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    _end_soon(mark)


def _end_soon(mark: str) -> None:
    time.sleep(ORPHAN_S)
    _end_what_was_started(mark)
    os._exit(1)


def _end_what_was_started(mark: str) -> None:
    end_started_by([os.getpid()], WORKER_MARK, [mark])
