"""Shards of a replay in processes of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import ray

from machina.buffers.replay_shard import Keys, ReplayShard, ShardReport
from machina.cluster.workers import RayHandle
from machina.handles import Handle
from machina.hardware import tune_process
from machina.types import Array, Unroll


class ShardWorker:
    """A process with one shard; unrolls come to it, and what is drawn goes to a learner, without passing the driver.

    Args:
        prepare: makes the process like the driver's (registered names); called first.
        make: pickled by value, builds the shard.
    """

    def __init__(self, prepare: Callable[[], None], make: bytes) -> None:
        prepare()
        tune_process(1)
        self._shard: ReplayShard = cloudpickle.loads(make)()

    def put(self, references: Sequence[Any], start: int, stop: int) -> ShardReport:
        """Fetch an unroll and take it in; one that is lost with its node leaves the shard as it is."""
        try:
            unroll = ray.get(references[0])
        except ray.exceptions.RayError:
            return self._shard.report()
        return self._shard.put(unroll, start, stop)

    @ray.method(num_returns=2)
    def draw(self, memory: str, fractions: Array) -> tuple[tuple[Keys, ShardReport], Unroll[Array]]:
        """Which items, and the items, which stay in the object store."""
        return self._shard.draw(memory, fractions)

    def call(self, method: str, *arguments: Any) -> Any:
        """Any other method of ``ReplayShard``."""
        return getattr(self._shard, method)(*arguments)


class ShardHandle(RayHandle):
    """The driver's end of a shard."""

    def call(self, method: str, *arguments: Any) -> None:
        """Ask for a method; what is put are references."""
        if method == "put":
            reference, start, stop = arguments
            self._answers.append((self.actor.put.remote([reference], start, stop), None))
        elif method == "draw":
            self._answers.append(tuple(self.actor.draw.remote(*arguments)))
        else:
            super().call(method, *arguments)


class RayShards:
    """Implements ``machina.buffers.buffer.Shards``.

    Args:
        prepare: makes a shard's process like this one.
    """

    def __init__(self, prepare: Callable[[], None]) -> None:
        self._prepare = prepare
        self.on_loss: Callable[[str], None] = lambda message: None  # noqa: ARG005 (until there are actors to count it)

    def start(self, make: Callable[[], object], name: str) -> Handle:
        """A shard in a process of its own, which takes none of the CPUs that actors are counted by."""
        # A byte of memory spreads them over nodes that live; without resources Ray 2.60 starts an actor anywhere.
        worker = ray.remote(ShardWorker).options(num_cpus=0, memory=1, scheduling_strategy="SPREAD")
        return ShardHandle(name, worker.remote(self._prepare, cloudpickle.dumps(make)))

    def report(self, message: str) -> None:
        """Count a lost shard as a fault of the run."""
        self.on_loss(message)
