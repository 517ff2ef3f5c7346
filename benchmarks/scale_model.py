"""Sizes of large clusters, from what an unroll costs. Every formula is linear; ``Costs`` are measured by ``scale.py``.

Symbols: A actors, s slots of an actor, t seconds of its round (an unroll of every slot), u updates per second.
Rounds per second are r = A / t, unrolls per second n = s r, unrolls per update n / u.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

CLUSTERS = (200, 1_000, 10_000)

UPDATES_PER_S = 10.0
"""u: as in OpenAI Five (arXiv 1912.06680), larger clusters make larger batches and not more updates."""

ACTORS_PER_NODE = 32

LARGEST_RAYLET = 8.0
"""Cores that a node's raylet can use: most threads of its object manager (object_manager_rpc_threads_num)."""

NETWORK = 25e9 / 8
"""Bytes per second of the learner's node, each way: a 25 Gbit/s card."""

VERSIONS_UNDER_WAY = 1
"""Parameter versions in a store besides those that rounds under way were begun with."""

BATCHES_AT_LEARNER = 2
"""The one that is learned from and the one that is fetched meanwhile."""


class Workload(NamedTuple):
    """What an actor hands over."""

    unroll_bytes: int
    """Of one slot."""
    parameter_bytes: int
    slots: int
    round_s: float


class Cost(NamedTuple):
    """CPU seconds."""

    per_round: float
    per_update: float

    def load(self, rounds_per_s: float, updates_per_s: float) -> float:
        """Cores: r per_round + u per_update."""
        return rounds_per_s * self.per_round + updates_per_s * self.per_update


class Costs(NamedTuple):
    """What the parts of a cluster spend; rounds of ``Workload.slots`` unrolls."""

    driver: Cost
    """All threads of the process."""
    ray_thread: Cost
    """Its thread in which Ray hears and answers all messages."""
    python: Cost
    """Its threads that share the interpreter's lock: the dispatcher's and the trainer's."""
    rank: Cost
    """Processes of the learner ranks, without learning: fetch and join; publish."""
    learner_raylet: Cost
    """Of the learner's node: a round's unrolls come in, parameters go out to one node."""
    actor_raylet: Cost
    """Of the actors' node: the other end."""


def told_apart(small: float, large: float, small_updates: float, large_updates: float) -> Cost:
    """The two costs behind two measurements.

    Solves ``small = per_round + small_updates * per_update`` and the same for ``large``.

    Args:
        small, large: CPU seconds per round with small and with large batches.
        small_updates, large_updates: updates per round.
    """
    per_update = max(0.0, (small - large) / (small_updates - large_updates))
    return Cost(max(0.0, small - small_updates * per_update), per_update)


class Size(NamedTuple):
    """A cluster; rates per second, loads in cores of the machine that was measured."""

    actors: int
    nodes: int
    """Of actors."""
    unrolls: float
    batch: float
    """Unrolls per update."""
    driver: float
    ray_thread: float
    python: float
    rank: float
    learner_raylet: float
    ingest_bytes: float
    parameter_bytes: float
    """To all nodes together: each fetches each version once."""
    store_bytes: float
    """In flight, all nodes together."""
    learner_store_bytes: float
    """Of these, on the learner's node."""


def cluster_size(actors: int, costs: Costs, work: Workload) -> Size:
    """What A actors cost.

    - unrolls n = A s / t; ingest n b of b bytes per unroll; batch n / u
    - parameters u p k to k nodes, of p bytes a version
    - in flight: what may wait or be collected (a batch and a round of every actor) and what is learned from
      (2 batches), b each; on every node the versions of rounds under way, 1 + u t, of p bytes
    - the learner's raylet sends each version k times at worst; nodes that have it pass it on, which is not counted
    """
    nodes = -(-actors // ACTORS_PER_NODE)
    rounds = actors / work.round_s
    unrolls = rounds * work.slots
    batch = unrolls / UPDATES_PER_S
    versions = work.parameter_bytes * (VERSIONS_UNDER_WAY + UPDATES_PER_S * work.round_s)
    at_learner = BATCHES_AT_LEARNER * batch * work.unroll_bytes
    return Size(
        actors,
        nodes,
        unrolls,
        batch,
        costs.driver.load(rounds, UPDATES_PER_S),
        costs.ray_thread.load(rounds, UPDATES_PER_S),
        costs.python.load(rounds, UPDATES_PER_S),
        costs.rank.load(rounds, UPDATES_PER_S),
        costs.learner_raylet.load(rounds, nodes * UPDATES_PER_S),
        unrolls * work.unroll_bytes,
        UPDATES_PER_S * nodes * work.parameter_bytes,
        (batch + actors * work.slots) * work.unroll_bytes + at_learner + nodes * versions,
        at_learner,
    )


class Limit(NamedTuple):
    """Something that a larger cluster exhausts."""

    name: str
    load: Callable[[Size], float]
    most: float


LIMITS = (
    Limit("one learner rank's process: 1 core", lambda size: size.rank, 1.0),
    Limit("driver: Ray's thread", lambda size: size.ray_thread, 1.0),
    Limit("driver: Python's lock", lambda size: size.python, 1.0),
    Limit("learner's raylet: 8 cores", lambda size: size.learner_raylet, LARGEST_RAYLET),
    Limit("learner's node: 25 Gbit/s in", lambda size: size.ingest_bytes, NETWORK),
    Limit("learner's node: 25 Gbit/s out", lambda size: size.parameter_bytes, NETWORK),
)


def most_actors(limit: Limit, costs: Costs, work: Workload) -> int:
    """The largest A whose load is within the limit; loads grow with A."""
    few, many = 0, 1
    while limit.load(cluster_size(many, costs, work)) <= limit.most:
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        if limit.load(cluster_size(middle, costs, work)) <= limit.most:
            few = middle
        else:
            many = middle
    return few


def print_sizes(costs: Costs, work: Workload) -> None:
    """The costs, the clusters and what breaks first, as tables."""
    print(f"\n{'CPU microseconds':>20} {'per round':>10} {'per update':>10}")
    for name, cost in costs._asdict().items():
        print(f"{name:>20} {1e6 * cost.per_round:10,.0f} {1e6 * cost.per_update:10,.0f}")
    sizes = [cluster_size(actors, costs, work) for actors in CLUSTERS]
    print()
    for field in Size._fields:
        values = [getattr(size, field) for size in sizes]
        print(f"{field:>20} " + " ".join(f"{value:18,.2f}" if value < 100 else f"{value:18,.0f}" for value in values))
    print(f"\n{'most actors':>12}")
    for most, limit in sorted((most_actors(limit, costs, work), limit) for limit in LIMITS):
        print(f"{most:12,} {limit.name}")
