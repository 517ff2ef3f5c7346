"""What a driver, a learner rank and a node of a Ray cluster spend on an unroll, and what follows for large clusters.

    python benchmarks/scale.py --actors 1 2 4 8 16 32

Starts two Ray nodes on this machine, one with the driver and a learner rank that only consumes, one with actors that
hand over unrolls of Pong's size at the pace of a real actor without stepping any environment. Plane, queue, dispatcher,
learner group and rank are the real ones. ``benchmarks/scale_model.py`` turns the costs into sizes of large clusters.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from pydantic import BaseModel, Field
from scale_model import Costs, Workload, print_sizes

from machina.cli.options import parse
from machina.config import RuntimeConfig
from machina.launch.configuration import job_config
from machina.launch.parts import build_parts
from machina.nets.ranks import SINGLE_RANK
from machina.runtime.building import ActorSetup
from machina.runtime.group import group_key
from machina.runtime.learners import LearnerGroup, Lost
from machina.runtime.plane import PlaneConfig
from machina.runtime.ray_parts import RoundReport, start_ray_ranks
from machina.runtime.ray_plane import RayPlane
from machina.runtime.unrolls import UnrollBuffer
from machina.types import Array, IntArray, Unroll

CPUS_PER_ACTOR = 0.01
"""Of Ray's account: an actor that sleeps takes no CPU."""

START_TIMEOUT_S = 150.0
OBJECT_STORE_BYTES = 2 * 2**30
WARM_UP_S = 2.0
LARGE_BATCH = 8
"""The costs of an update and of an unroll are told apart by a second batch, so many times as large."""


class Options(BaseModel):
    """Measure the costs of unrolls."""

    actors: tuple[int, ...] = Field(default=(1, 2, 4, 8, 16, 32), description="Numbers of actors, growing.")
    slots: int = Field(default=16, ge=2, description="Environments of an actor, in two groups.")
    round_s: float = Field(default=0.36, gt=0, description="Seconds that an actor takes for an unroll of every slot.")
    batch_size: int = Field(default=32, ge=1, description="Unrolls per update.")
    seconds: float = Field(default=6, gt=0, description="Length of each window, in seconds.")
    nodes: tuple[int, ...] = Field(default=(1, 2, 4), description="Numbers of nodes that parameters are sent to.")


class Row(NamedTuple):
    """One window: CPU microseconds, of the named processes; wall time is in no column but the first three."""

    actors: int
    offered: float
    """Unrolls per second at the set pace."""
    unrolls: float
    """Per second, learned."""
    rounds: float
    """Per second."""
    updates: float
    """Per second."""
    dispatch_round: float
    """Driver without its main thread, per round."""
    submit_update: float
    """Driver's main thread, per update."""
    rank_unroll: float
    learner_raylet_unroll: float
    """Raylet of the learner's node, which receives the unrolls."""
    actor_raylet_unroll: float
    """Raylet of the actors' node, which sends them."""
    actor_unroll: float
    """Processes of the actors; without environment and policy this is putting unrolls into the object store."""
    busy: float
    """CPU seconds per second of everything that this benchmark started, out of the machine's cores."""


def main() -> None:
    options = parse(Options, sys.argv[1:], "benchmarks/scale.py")
    config, _ = job_config("impala", "pong", "defaults")
    parts = build_parts(config)
    learner = parts.algorithm.make_learner(parts.factory.spec, 10**9, "cpu", "float32", 1, SINGLE_RANK)
    num_parameters = learner.flat_parameters().numel()
    setup = ActorSetup(parts.factory, _no_policy, config.algo.unroll_length, 1, 60.0, False, 1)
    workload = Workload(unroll_bytes(setup), 4 * num_parameters, options.slots, options.round_s)
    print(f"{workload.unroll_bytes:,} bytes per unroll, {workload.parameter_bytes:,} bytes of parameters", flush=True)
    with two_nodes():
        rows = sweep(options, setup, num_parameters, options.batch_size, options.actors)
        large = sweep(options, setup, num_parameters, LARGE_BATCH * options.batch_size, options.actors[-2:-1])
    for count in options.nodes:
        print_broadcast(count, num_parameters)
    print_sizes(costs(rows, large[0], options), workload)


def _no_policy() -> Any:
    raise NotImplementedError("synthetic actors act on nothing")


def unroll_bytes(setup: ActorSetup) -> int:
    """Of one slot."""
    unroll = UnrollBuffer(setup.factory.spec, setup.unroll_length, *[np.zeros(1, np.int64)] * 2, ()).unroll
    arrays = [*unroll.observation.values(), *(array for array in unroll if isinstance(array, np.ndarray))]
    return sum(array.nbytes for array in arrays)


# What runs in other processes


def synthetic_actor(round_s: float) -> type[Any]:
    """The class of an actor that answers as ``machina.runtime.ray_parts.RolloutWorker`` does, once in ``round_s``."""

    class SyntheticActor:
        def __init__(self, prepare: Any, setup: ActorSetup, slots: Sequence[IntArray], state: dict[str, Array]) -> None:  # noqa: ARG002
            self._keys = [group_key(group) for group in slots]
            own = np.concatenate(slots)
            self._unroll = UnrollBuffer(setup.factory.spec, setup.unroll_length, own, 0 * own, ()).unroll
            for array in self._unroll.observation.values():
                array[...] = 1  # pages that nobody wrote are cheaper to copy
            self._parameters: Array | None = None
            self._version = -1
            self._rounds = 0

        def start(self) -> tuple[str, str]:
            return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()

        @ray.method(num_returns=2)
        def run_round(self, policy_version: int, flat: Array) -> tuple[RoundReport, Unroll[Array]]:
            due = time.monotonic() + round_s
            if policy_version != self._version:
                self._parameters, self._version = flat.copy(), policy_version
            self._rounds += 1
            self._unroll.policy_version[...] = policy_version
            counters = {key + name: np.array(self._rounds) for key in self._keys for name in ("drawn", "restarts")}
            seconds = {"acting": 0.0, "env": self._rounds * round_s, "waiting": 0.0}
            report = RoundReport(None, policy_version, (), (), seconds, self._rounds, 1 / round_s, counters)
            time.sleep(max(0.0, due - time.monotonic()))
            return report, self._unroll

        @ray.method(concurrency_group="watch")
        def progress(self) -> tuple[int, int]:
            return len(self._unroll.slot), self._rounds

    return SyntheticActor


class Consumer:
    """A learner that takes batches and publishes parameters that never change."""

    def __init__(self, num_parameters: int) -> None:
        self._flat = torch.zeros(num_parameters)

    def update(self, batch: Unroll[Array]) -> dict[str, float]:  # noqa: ARG002 (joined by now: that is the cost)
        return {"learner/skipped": 0.0}

    def flat_parameters(self) -> torch.Tensor:
        return self._flat.clone()


# Clusters


@contextmanager
def two_nodes() -> Iterator[None]:
    """The learner's node, which has no CPU for actors, and the actors' node."""
    with cluster(num_actor_nodes=1):
        yield


@contextmanager
def cluster(num_actor_nodes: int) -> Iterator[None]:
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="scale-") as home:
        os.environ |= {"HOME": home, "RAY_worker_niceness": "0"}
        nodes = Cluster()
        try:
            nodes.add_node(num_cpus=0, object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False)
            # Before there are others: it takes any node that has this machine's address for its own.
            ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
            for _ in range(num_actor_nodes):
                nodes.add_node(num_cpus=2, object_store_memory=OBJECT_STORE_BYTES)
            yield
        finally:
            ray.shutdown()
            nodes.shutdown()


# Measuring


def sweep(
    options: Options, setup: ActorSetup, num_parameters: int, batch_size: int, actors: Sequence[int]
) -> list[Row]:
    """A row for every number of actors."""
    runtime = RuntimeConfig(place="ray", actors=1, cpus_per_actor=CPUS_PER_ACTOR)
    plane = RayPlane(
        setup, runtime, PlaneConfig(batch_size, options.slots, 1), _nothing, worker=synthetic_actor(options.round_s)
    )
    learners = LearnerGroup(
        lambda: start_ray_ranks(_nothing, lambda *_: Consumer(num_parameters), 1, threads=1, gpus=0),
        ahead=1,
        max_restarts=None,
        on_fault=print,
    )
    consumer = Loop(plane, learners)
    rows = []
    print(f"batch {batch_size}\n" + " ".join(f"{name[:12]:>12}" for name in Row._fields), flush=True)
    try:
        plane.publish(0, learners.parameters())
        plane.start({})
        for count in actors:
            plane.scale(count)
            consumer.until(lambda count=count: len(_collecting(plane)) >= count, START_TIMEOUT_S)
            consumer.for_seconds(WARM_UP_S)
            rows.append(window(consumer, count, options))
            print(" ".join(f"{value:12,.0f}" if value > 5 else f"{value:12,.2f}" for value in rows[-1]), flush=True)
    finally:
        plane.close()
        learners.close()
    return rows


def _nothing() -> None:
    """Workers need no preparation: the environment is built in."""


def _collecting(plane: RayPlane) -> list[int]:
    return [actor.number for actor in plane.stats().actors if actor.state != "starting"]


class Loop:
    """What ``machina.launch.training`` does with batches, without anything else."""

    def __init__(self, plane: RayPlane, learners: LearnerGroup) -> None:
        self.plane = plane
        self._learners = learners
        self.updates = 0

    def turn(self) -> None:
        batch = self.plane.next_batch(0.1)
        if batch is None:
            return
        for answer in self._learners.submit(batch):
            if isinstance(answer, Lost):
                raise RuntimeError("the rank died")
            self.plane.queue.settle(answer.batch, answer.lost)
            self.updates += 1
            self.plane.publish(self.updates, answer.parameters)

    def for_seconds(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.turn()

    def until(self, condition: Any, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"not after {timeout_s:g} s")
            self.turn()


def window(consumer: Loop, actors: int, options: Options) -> Row:
    """Let it run for a while and divide what was spent."""
    started, before, main_before = time.monotonic(), cpu_seconds(), time.thread_time()
    unrolls_before, updates_before = consumer.plane.queue.account.learned, consumer.updates
    consumer.for_seconds(options.seconds)
    spent, main = cpu_seconds(), time.thread_time() - main_before
    spent.subtract(before)
    wall = time.monotonic() - started
    unrolls = consumer.plane.queue.account.learned - unrolls_before
    updates, rounds = consumer.updates - updates_before, unrolls / options.slots
    return Row(
        actors,
        actors * options.slots / options.round_s,
        unrolls / wall,
        rounds / wall,
        updates / wall,
        1e6 * (spent["driver"] - main) / rounds,
        1e6 * main / updates,
        1e6 * spent["rank"] / unrolls,
        1e6 * spent["learner's raylet"] / unrolls,
        1e6 * spent["actors' raylet"] / unrolls,
        1e6 * spent["actors"] / unrolls,
        sum(spent.values()) / wall,
    )


def cpu_seconds() -> Counter[str]:
    """CPU seconds, user and system, that this process and its descendants have used, by what they are."""
    own_node = ray.get_runtime_context().get_node_id()
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        parents[int(folder.name)] = int(fields[1])
        seconds[int(folder.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    total: Counter[str] = Counter()
    for pid in seconds:
        ancestor = pid
        while ancestor not in (0, os.getpid()):
            ancestor = parents.get(ancestor, 0)
        if ancestor:
            total[_kind(pid, own_node)] += seconds[pid]  # type: ignore[assignment]
    return total


def _kind(pid: int, own_node: str) -> str:
    if pid == os.getpid():
        return "driver"
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return "other"
    if command.startswith("ray::SyntheticActor"):
        return "actors"
    if command.startswith("ray::RankWorker"):
        return "rank"
    if "/raylet/raylet" in command.partition("\0")[0]:
        return "learner's raylet" if own_node in command else "actors' raylet"
    return "other"
