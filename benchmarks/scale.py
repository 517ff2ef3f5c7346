"""What a driver, a learner rank and a node of a Ray cluster spend on an unroll, and what follows for large clusters.

    python benchmarks/scale.py --actors 1 2 4 8 16 32

Starts two Ray nodes on this machine, one with the driver and a learner rank that only consumes, one with actors that
hand over unrolls of Pong's size at the pace of a real actor without stepping any environment. Queue, dispatcher,
learner group and rank are the real ones. ``benchmarks/scale_model.py`` turns the costs into sizes of large clusters.
"""

from __future__ import annotations

import logging
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from pydantic import BaseModel, Field
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as NodeAffinity
from refusals import refusing
from scale_model import Costs, Workload, print_sizes, told_apart

from machina.actors.actor_builder import ActorSetup
from machina.actors.slot_group import group_key
from machina.actors.slots import assign_slots, buffer_sizes
from machina.buffers.parameters import ParameterStore
from machina.buffers.queue import UnrollQueue
from machina.buffers.unrolls import UnrollBuffer
from machina.cli.options import parse
from machina.cluster.access import make_token, stay_on_loopback, use_authentication
from machina.cluster.actor_group import RayActors
from machina.cluster.workers import Life, RoundReport, start_ray_ranks
from machina.config import RuntimeConfig
from machina.launch.configuration import job_config
from machina.launch.learning_loop import LearningLoop
from machina.launch.places import Actors
from machina.launch.plan import plan_run
from machina.learner.learner_group import LearnerGroup
from machina.learner.sums import SINGLE_RANK
from machina.types import Array, IntArray, Unroll

CPUS_PER_ACTOR = 0.01
"""Of Ray's account: an actor that sleeps takes no CPU."""

START_TIMEOUT_S = 150.0
OBJECT_STORE_BYTES = 2 * 2**30
WARM_UP_S = 2.0
LEAST_UPDATES = 4
"""In a window, however long it takes."""

BROADCASTS = 10

KEPT_PACE = 0.85
"""Least share of the offered unrolls at which nothing is saturated."""

OF_THE_DRIVER = ("ray_thread", "python")
"""Parts of the driver's CPU."""

LARGE_BATCH = 4
"""The costs of an update and of a round are separated by a second batch, this many times as large."""


class Options(BaseModel):
    """Measure the costs of unrolls."""

    actors: tuple[int, ...] = Field(default=(1, 2, 4, 8, 16, 32), description="Numbers of actors, growing.")
    slots: int = Field(default=16, ge=2, description="Environments of an actor, in two groups.")
    round_s: float = Field(default=0.36, gt=0, description="Seconds that an actor takes for an unroll of every slot.")
    batch_size: int = Field(default=32, ge=1, description="Unrolls per update.")
    seconds: float = Field(default=6, gt=0, description="Length of each window, in seconds.")
    nodes: tuple[int, ...] = Field(default=(1, 2, 4), description="Numbers of nodes that parameters are sent to.")


class Row(NamedTuple):
    """One window. CPU is in microseconds per round of an actor, of all its slots; rates are per second of wall time."""

    actors: int
    offered: float
    """Unrolls at the set pace."""
    unrolls: float
    """Learned from."""
    rounds: float
    updates: float
    driver: float
    ray_thread: float
    """The driver's thread in which Ray hears and answers all messages."""
    python: float
    """The driver's dispatcher and main threads, which share the interpreter's lock."""
    rank: float
    learner_raylet: float
    """Of the learner's node: unrolls come in, parameters go out."""
    actor_raylet: float
    """Of the actors' node."""
    actor: float
    """Of an actor; without environment and policy, this is putting unrolls into the object store."""
    busy: float
    """Cores, of everything that this benchmark started."""

    @property
    def keeps_pace(self) -> bool:
        return self.unrolls > KEPT_PACE * self.offered


def main() -> None:
    options = parse(Options, sys.argv[1:], "benchmarks/scale.py")
    config, _ = job_config("impala", "pong", "defaults")
    plan = plan_run(config)
    learner = plan.algorithm.make_learner(plan.spec, "cpu", "float32", 1, SINGLE_RANK)
    flat = learner.flat_parameters().numpy()
    setup = ActorSetup(
        plan.factory,
        _no_policy,
        config.algo.unroll_length,
        plan.algorithm.policy_outputs(plan.spec),
        1,
        60.0,
        False,
        1,
    )
    work = Workload(unroll_bytes(setup), flat.nbytes, options.slots, options.round_s)
    report = len(ray.cloudpickle.dumps(a_report(["slot0/", "slot8/"], 0, 0)))
    print(f"{work.unroll_bytes:,} bytes per unroll, {work.parameter_bytes:,} bytes of parameters", flush=True)
    print(f"to the driver: {report:,} bytes per round of {options.slots} unrolls, and references", flush=True)
    with learner_node() as nodes:
        add_node(nodes)
        rows = sweep(options, setup, flat, options.batch_size, options.actors)
        unsaturated = [row for row in rows if row.keeps_pace] or rows[:1]
        large = sweep(options, setup, flat, LARGE_BATCH * options.batch_size, [unsaturated[-1].actors])
        print_broadcast(nodes, options.nodes, flat)
    print_sizes(costs(unsaturated[-1], large[0]), work)


def costs(small: Row, large: Row) -> Costs:
    """Separate the costs of a round from those of an update."""
    updates = small.updates / small.rounds, large.updates / large.rounds
    pairs = {name: (getattr(small, name) / 1e6, getattr(large, name) / 1e6) for name in Costs._fields}
    return Costs(**{name: told_apart(*pair, *updates) for name, pair in pairs.items()})


def _no_policy() -> Any:
    raise NotImplementedError("synthetic actors act on nothing")


def unroll_bytes(setup: ActorSetup) -> int:
    """Of one slot."""
    slot = np.zeros(1, np.int64)
    unroll = UnrollBuffer(setup.factory.spec, setup.policy_outputs, setup.unroll_length, slot, slot, ()).unroll
    arrays = [*unroll.observation.values(), *(array for array in unroll if isinstance(array, np.ndarray))]
    return sum(array.nbytes for array in arrays)


# What runs in other processes


def a_report(group_keys: Sequence[str], policy_version: int, rounds: int) -> RoundReport:
    """What an actor says of a round without finished episodes."""
    counters = {key + name: np.array(rounds) for key in group_keys for name in ("drawn", "restarts")}
    seconds = {"acting": 0.0, "env": 0.0, "waiting": 0.0}
    return RoundReport(None, policy_version, (), (), (), seconds, rounds, 0.0, counters)


def synthetic_actor(round_s: float) -> type[Any]:
    """The class of an actor that responds as ``machina.cluster.workers.ActorProcess`` does, once in ``round_s``."""

    class SyntheticActor:
        def __init__(self, prepare: Any, setup: ActorSetup, slots: Sequence[IntArray], state: dict[str, Array]) -> None:  # noqa: ARG002
            self._keys = [group_key(group) for group in slots]
            own = np.concatenate(slots)
            self._unroll = UnrollBuffer(
                setup.factory.spec, setup.policy_outputs, setup.unroll_length, own, 0 * own, ()
            ).unroll
            for array in self._unroll.observation.values():
                array[...] = 1  # pages that nobody wrote are cheaper to copy
            self._parameters: Array | None = None
            self._version = -1
            self._rounds = 0

        def start(self) -> tuple[str, str]:
            return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()

        @ray.method(num_returns=2)
        def run_round(self, policy_version: int, flat: Array, _opponents: None) -> tuple[RoundReport, Unroll[Array]]:
            due = time.monotonic() + round_s
            if policy_version != self._version:
                self._parameters, self._version = flat.copy(), policy_version
            self._rounds += 1
            self._unroll.policy_version[...] = policy_version
            time.sleep(max(0.0, due - time.monotonic()))
            return a_report(self._keys, policy_version, self._rounds), self._unroll

        @ray.method(concurrency_group="watch")
        def life(self) -> Life:
            return Life(len(self._unroll.slot), self._rounds, ())

        @ray.method(concurrency_group="watch")
        def close(self) -> None:
            """It has no environments."""

    return SyntheticActor


class Consumer:
    """A learner that takes batches and publishes parameters that never change."""

    def __init__(self, flat: Array) -> None:
        self._flat = torch.tensor(flat)

    def update(self, batch: Unroll[Array]) -> dict[str, float]:  # noqa: ARG002 (joined by now: that is the cost)
        return {"learner/skipped": 0.0}

    def flat_parameters(self) -> torch.Tensor:
        return self._flat.clone()


# The cluster


@contextmanager
def learner_node() -> Iterator[Cluster]:
    """A cluster of one node, that of the driver and the learner, which has no CPU for actors."""
    with tempfile.TemporaryDirectory(prefix="scale-") as home:
        os.environ |= {"HOME": home, "RAY_TMPDIR": home, "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
        make_token()
        use_authentication("token")
        stay_on_loopback(True)
        nodes = Cluster()
        try:
            add_node(nodes, num_cpus=0, include_dashboard=False)
            # Before there are others: it takes any node that has this machine's address for its own.
            ray.init(address=nodes.address, log_to_driver=False, logging_level=logging.ERROR)
            yield nodes
        finally:
            ray.shutdown()
            nodes.shutdown()


def add_node(nodes: Cluster, **options: Any) -> None:
    """A node, for actors unless ``options`` say otherwise."""
    defaults: dict[str, Any] = {
        "num_cpus": 2,
        "object_store_memory": OBJECT_STORE_BYTES,
        "node_ip_address": "127.0.0.1",
    }
    nodes.add_node(**(defaults | options))


# Measuring


def sweep(options: Options, setup: ActorSetup, flat: Array, batch_size: int, actors: Sequence[int]) -> list[Row]:
    """A row for every number of actors."""
    runtime = RuntimeConfig(place="ray", actors=1, cpus_per_actor=CPUS_PER_ACTOR)
    slots = assign_slots(setup.factory.spec, options.slots, 1)
    buffer = UnrollQueue(buffer_sizes(slots, runtime, batch_size, setup.unroll_length, None, 10**12, 1))
    store, worker = ParameterStore(), synthetic_actor(options.round_s)
    group = RayActors(setup, runtime, slots, buffer, store, _nothing, worker=worker)
    learners = LearnerGroup(
        lambda: start_ray_ranks(_nothing, lambda *_: Consumer(flat), 1, threads=1, gpus=0),
        ahead=1,
        max_restarts=None,
        on_fault=print,
        is_over=lambda: False,
    )
    measured = Measured(Actors(group, buffer, store), learners)
    rows = []
    print(f"\nbatch {batch_size}\n" + " ".join(f"{name:>10}" for name in Row._fields), flush=True)
    try:
        measured.loop.begin()
        group.start({})
        for count in actors:
            group.scale(count)
            measured.until_collecting(count)
            measured.run(WARM_UP_S)
            rows.append(window(measured, count, options))
            print(" ".join(f"{value:10,.0f}" if value > 9 else f"{value:10,.2f}" for value in rows[-1]), flush=True)
    finally:
        group.close()
        learners.close()
    return rows


def print_broadcast(nodes: Cluster, counts: Sequence[int], flat: Array) -> None:
    """Time and CPU until every actor has read new parameters, for growing numbers of nodes with four actors each."""
    print(f"\n{'nodes':>5} {'put, ms':>8} {'all have it, ms':>15} {'sending, us/MB':>14} {'receiving, us/MB':>16}")
    for count in counts:
        while len(nodes.worker_nodes) < count:
            add_node(nodes)
        own_node = ray.get_runtime_context().get_node_id()
        places = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != own_node]
        holder: Any = ray.remote(num_cpus=CPUS_PER_ACTOR)(Holder)
        actors = [holder.options(scheduling_strategy=NodeAffinity(place, soft=False)).remote() for place in places * 4]
        ray.get([actor.hold.remote(None) for actor in actors], timeout=START_TIMEOUT_S)
        put_s, all_s, idle_s = [], [], []
        before = cpu_seconds()
        for _ in range(BROADCASTS):
            started = time.perf_counter()
            reference = ray.put(flat)
            put_s.append(time.perf_counter() - started)
            ray.get([actor.hold.remote(reference) for actor in actors], timeout=START_TIMEOUT_S)
            all_s.append(time.perf_counter() - started)
            started = time.perf_counter()
            ray.get([actor.hold.remote(None) for actor in actors], timeout=START_TIMEOUT_S)
            idle_s.append(time.perf_counter() - started)
        spent = cpu_seconds()
        megabytes = BROADCASTS * count * flat.nbytes / 1e6
        sent, received = (1e6 * (spent[kind] - before[kind]) / megabytes for kind in ("learner_raylet", "actor_raylet"))
        put, everywhere = 1e3 * statistics.median(put_s), 1e3 * (statistics.median(all_s) - statistics.median(idle_s))
        print(f"{count:5} {put:8.1f} {everywhere:15.1f} {sent:14,.0f} {received:16,.0f}", flush=True)
        for actor in actors:
            ray.kill(actor)


class Holder:
    def hold(self, array: Array | None) -> float:
        return 0.0 if array is None else float(array[-1])


def _nothing() -> None:
    """Workers need no preparation: the environment is built in."""


class Measured:
    """A learning loop that never ends, and its buffer and actors."""

    def __init__(self, actors: Actors, learners: LearnerGroup) -> None:
        self.actors = actors
        self.loop = LearningLoop(actors, learners, total_env_steps=10**12)

    def run(self, seconds: float, updates: int = 0) -> None:
        """For this long, and until this many updates more were made."""
        end, last = time.monotonic() + seconds, self.loop.updates + updates
        while time.monotonic() < end or self.loop.updates < last:
            self.loop.turn(0.1)

    def until_collecting(self, actors: int) -> None:
        end = time.monotonic() + START_TIMEOUT_S
        while sum(actor.state != "starting" for actor in self.actors.group.stats().actors) < actors:
            if time.monotonic() > end:
                raise TimeoutError(f"{actors} actors did not start in {START_TIMEOUT_S:g} s")
            self.loop.turn(0.1)


def window(measured: Measured, actors: int, options: Options) -> Row:
    """Let it run for a while and divide what was spent."""
    started, before = time.monotonic(), cpu_seconds()
    learned, updates = measured.actors.buffer.account()["learned"], measured.loop.updates
    measured.run(options.seconds, LEAST_UPDATES)
    spent, wall = cpu_seconds(), time.monotonic() - started
    spent = {kind: seconds - before.get(kind, 0.0) for kind, seconds in spent.items()}
    unrolls = measured.actors.buffer.account()["learned"] - learned
    updates = measured.loop.updates - updates
    rounds = unrolls / options.slots
    per_round = {kind: 1e6 * seconds / rounds for kind, seconds in spent.items()}
    return Row(
        actors=actors,
        offered=actors * options.slots / options.round_s,
        unrolls=unrolls / wall,
        rounds=rounds / wall,
        updates=updates / wall,
        busy=sum(seconds for kind, seconds in spent.items() if kind not in OF_THE_DRIVER) / wall,
        **{
            name: per_round[name]
            for name in ("driver", *OF_THE_DRIVER, "rank", "learner_raylet", "actor_raylet", "actor")
        },
    )


def cpu_seconds() -> dict[str, float]:
    """CPU, user and system, that this process, its descendants and some of its threads have used since they began."""
    own_node = ray.get_runtime_context().get_node_id()
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            _, parents[int(folder.name)], seconds[int(folder.name)] = _stat(folder)
    total: defaultdict[str, float] = defaultdict(float)
    for pid in seconds:
        ancestor = pid
        while ancestor not in (0, os.getpid()):
            ancestor = parents.get(ancestor, 0)
        if ancestor:
            total[_kind(pid, own_node)] += seconds[pid]
    python = {thread.native_id for thread in threading.enumerate() if thread.name in ("MainThread", "dispatch")}
    for folder in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            used = int((folder / "schedstat").read_text(encoding="ascii").split()[0]) / 1e9
            total["ray_thread"] += used * (_stat(folder)[0] == "worker.io")
            total["python"] += used * (int(folder.name) in python)
    return total


def _stat(folder: Path) -> tuple[str, int, float]:
    """Name, parent and CPU seconds of a process or thread."""
    name, _, rest = (folder / "stat").read_text(encoding="utf-8").partition("(")[2].rpartition(")")
    fields = rest.split()
    return name, int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _kind(pid: int, own_node: str) -> str:
    if pid == os.getpid():
        return "driver"
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return "other"
    if command.startswith("ray::SyntheticActor"):
        return "actor"
    if command.startswith("ray::RankWorker"):
        return "rank"
    if "/raylet/raylet" in command.partition("\0")[0]:
        return "learner_raylet" if own_node in command else "actor_raylet"
    return "other"


if __name__ == "__main__":
    refusing(main)
