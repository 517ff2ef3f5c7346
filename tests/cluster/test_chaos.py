"""Ten faults of all kinds at random moments of one run; it gets over every one and ends by itself."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from faults import (
    ACTOR,
    ACTOR_RECOVERY_S,
    NODE_RECOVERY_S,
    RANK,
    RANK_RECOVERY_S,
    UNROLL_LENGTH,
    Job,
    cluster_options,
    is_alive,
    kill,
    last_metrics,
    processes_in,
    processes_on,
    start_job,
)
from ray.cluster_utils import Cluster
from ray_nodes import PATIENCE_S, start_nodes

MINUTES = 10.0
"""Length of the run, the start of its processes included."""

SEED = 3
ACTORS = 3
KINDS = ("actor", "node", "rank", "raises", "sleeps", "nan", "frozen")
NUM_FAULTS = 10
STEP_TIMEOUT_S = 3.0

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(60 * MINUTES + 300)]


class Strike(NamedTuple):
    """One fault of the plan."""

    at_s: float
    """Since the actors produce."""
    kind: str


def plan(seconds: float) -> list[Strike]:
    """Every kind once and three again, at random moments; the last one leaves time to recover."""
    generator = random.Random(SEED)
    kinds = [*KINDS, *generator.sample(KINDS, NUM_FAULTS - len(KINDS))]
    generator.shuffle(kinds)
    moments = sorted(generator.uniform(0, seconds) for _ in kinds)
    return [Strike(moment, kind) for moment, kind in zip(moments, kinds, strict=True)]


class Chaos:
    """Brings faults down on a run and waits until it is over each of them.

    Args:
        nodes: the cluster; the driver runs on its head.
        job: a run with ``ACTORS`` actors.
        generator: chooses the victims.
    """

    def __init__(self, nodes: Cluster, job: Job, generator: random.Random) -> None:
        self._nodes = nodes
        self._job = job
        self._generator = generator

    def strike(self, kind: str) -> float:
        """Bring it down; how long until everything produces and learns again."""
        strikes: dict[str, Callable[[], float]] = {
            "actor": lambda: self._lose_actor(signal.SIGKILL, ACTOR_RECOVERY_S),
            # Its deadline comes before its replacement.
            "frozen": lambda: self._lose_actor(signal.SIGSTOP, ACTOR_RECOVERY_S + 2 * STEP_TIMEOUT_S + 4),
            "node": self._lose_node,
            "rank": self._lose_rank,
        }
        if kind in strikes:
            return strikes[kind]() + self._job.wait_for_progress()
        return self._job.fail_environment(kind)

    def _lose_actor(self, number: signal.Signals, limit_s: float) -> float:
        before = self._job.num_restarts()
        os.kill(self._generator.choice(processes_in(self._nodes, ACTOR)), number)
        return self._job.wait_for_replacement(ACTORS, before + 1, limit_s)

    def _lose_node(self) -> float:
        """Another node comes, as an operator or an autoscaler would see to; the actors need not wait for it."""
        victim = max(self._nodes.list_all_nodes()[1:], key=lambda node: len(processes_on(node, ACTOR)))
        gone, before = len(processes_on(victim, ACTOR)), self._job.num_restarts()
        self._nodes.remove_node(victim, allow_graceful=False)
        seconds = self._job.wait_for_replacement(ACTORS, before + gone, NODE_RECOVERY_S)
        add_node(self._nodes)
        return seconds

    def _lose_rank(self) -> float:
        before = self._job.status()
        kill(self._generator.choice(processes_in(self._nodes, RANK)))
        return self._job.wait(
            lambda status: (
                status["learner_restarts"] > before["learner_restarts"] and status["updates"] > before["updates"] + 3
            ),
            RANK_RECOVERY_S,
        )


def add_node(nodes: Cluster) -> None:
    """One more node, with room for all actors."""
    nodes.add_node(wait=False, num_cpus=ACTORS, node_ip_address="127.0.0.1", include_dashboard=False)
    nodes.wait_for_nodes(PATIENCE_S)


@pytest.fixture
def nodes(private_home: Path) -> Iterator[Cluster]:
    """Two nodes with CPUs for all actors each, and a head for the driver."""
    assert private_home.exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        cluster = start_nodes(0, ACTORS, ACTORS)
        yield cluster
    cluster.shutdown()


def test_ten_faults_in_one_run(nodes: Cluster, tmp_path: Path) -> None:
    options: tuple[Any, ...] = ("--actors", str(ACTORS), "--learners", "2", "--max-restarts", "100")
    job = start_job(
        tmp_path,
        *cluster_options(nodes),
        *options,
        *("--minutes", str(MINUTES), "--step-timeout-s", str(STEP_TIMEOUT_S)),
    )
    try:
        started = time.monotonic()
        job.wait_for_actors(ACTORS)
        # The last fault is over before the run is.
        chaos, begun = Chaos(nodes, job, random.Random(SEED)), time.monotonic()
        seconds = 60 * MINUTES - (begun - started) - RANK_RECOVERY_S
        for strike in plan(seconds):
            time.sleep(max(0.0, begun + strike.at_s - time.monotonic()))
            recovery = chaos.strike(strike.kind)
            print(f"\n{strike.at_s:4.0f} s {strike.kind}: recovered in {recovery:.1f} s")
        processes = processes_in(nodes, ACTOR) + processes_in(nodes, RANK)
        job.end(60 * MINUTES)
    finally:
        job.kill()
    assert "minutes are over" in job.output
    assert not any(is_alive(process) for process in processes)
    last = last_metrics(job.run.path)
    assert last["queue/learned"] * UNROLL_LENGTH == last["env_steps"]
    account = {key: int(last[f"queue/{key}"]) for key in ("accepted", "learned", "dropped", "queued")}
    print(f"\n{account}, {last['faults/env_steps_cut']:.0f} env steps cut, {last['faults/updates_undone']:.0f} undone")
