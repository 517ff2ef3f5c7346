"""Learner ranks in processes of their own."""

from __future__ import annotations

import multiprocessing
import pickle
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import torch

PATIENCE_S = 120.0
"""For what must happen sooner or later."""

CONTEXT = multiprocessing.get_context("forkserver")
"""Torch is imported once for all processes, before any of its threads runs."""
CONTEXT.set_forkserver_preload(["machina.algorithms.impala.builder"])


class Ended(NamedTuple):
    """How a rank's process ended."""

    result: Any
    """What its function returned; None when it was killed."""
    exit_code: int | None


def free_rendezvous(count: int) -> list[str]:
    """Meeting points on this machine."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"tcp://127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    finally:
        for each in sockets:
            each.close()


def run_ranks(size: int, function: Callable[..., Any], *arguments: Any) -> list[Ended]:
    """Call ``function(rank, *arguments)`` in ``size`` fresh processes and wait for their ends."""
    pipes = [CONTEXT.Pipe(duplex=False) for _ in range(size)]
    processes = [
        CONTEXT.Process(target=_serve, args=(pipe[1], function, rank, *arguments), daemon=True)
        for rank, pipe in enumerate(pipes)
    ]
    for process, (_, theirs) in zip(processes, pipes, strict=True):
        process.start()
        theirs.close()
    ended = []
    for process, (ours, _) in zip(processes, pipes, strict=True):
        try:
            result = pickle.loads(ours.recv_bytes()) if wait([ours], PATIENCE_S) else None
        except EOFError:
            result = None
        process.join(PATIENCE_S)
        ended.append(Ended(result, process.exitcode))
        process.kill()
    return ended


def _serve(pipe: Connection, function: Callable[..., Any], rank: int, *arguments: Any) -> None:
    torch.set_num_threads(1)
    # Plain pickle: torch's own would leave the tensors in shared memory, which goes with the process.
    pipe.send_bytes(pickle.dumps(function(rank, *arguments)))
