"""Faults of a run with ``--place ray``: it continues by itself, or ends with a good checkpoint, and nothing is
uncounted.

What each fault costs is in docs/reliability.md; `pytest -m cluster -s` prints it again.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import (
    ACTOR,
    ACTOR_RECOVERY_S,
    BATCH_SIZE,
    NODE_RECOVERY_S,
    RANK,
    RANK_RECOVERY_S,
    START_S,
    TOLD,
    UNROLL_LENGTH,
    are_gone,
    cluster_options,
    descendants,
    kill,
    last_metrics,
    measured,
    num_producing,
    processes_in,
    processes_on,
    resume_job,
    start_job,
    when,
)
from ray.cluster_utils import Cluster
from ray_nodes import PATIENCE_S, start_nodes

pytestmark = pytest.mark.cluster

BUSY_NODE_S = 30.0
"""The others learn on meanwhile, and a replacement is there."""

HELPERS_END_S = 120.0
"""Ray's dashboard and environment agents try for 60 s to report the end of their node to a head that ended with it."""


@pytest.fixture(scope="module")
def nodes(private_home: Path) -> Iterator[Cluster]:
    """A head with two CPUs, on which the driver runs, and a node with two."""
    assert private_home.exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # as on a cluster that Machina starts
        cluster = start_nodes(2, 2)
    yield cluster
    cluster.shutdown()


def test_a_killed_actor_is_replaced(nodes: Cluster, tmp_path: Path) -> None:
    job = start_job(tmp_path, *cluster_options(nodes), "--actors", "2")
    try:
        job.wait_for_actors(2)
        kill(processes_in(nodes, ACTOR)[0])
        seconds = job.wait_for_replacement(2, 1, ACTOR_RECOVERY_S)
        job.wait_for_progress()
        job.wait(lambda status: status["faults"] == 1, 60)
        job.interrupt()
    finally:
        job.kill()
    assert "its process died" in job.faults_log()
    cut = last_metrics(job.run.path)["faults/env_steps_cut"]
    assert cut <= 2 * UNROLL_LENGTH
    measured("an actor's process killed", seconds, f"{cut} env steps")


def test_a_frozen_actor_is_given_up_and_its_cpu_is_free_again(nodes: Cluster, tmp_path: Path) -> None:
    """All CPUs are taken: the replacement can only start on that of the frozen process."""
    job = start_job(tmp_path, *cluster_options(nodes), "--actors", "4", "--step-timeout-s", "2")
    try:
        job.wait_for_actors(4)
        frozen = processes_in(nodes, ACTOR)[0]
        os.kill(frozen, signal.SIGSTOP)
        seconds = job.wait_for_replacement(4, 1, ACTOR_RECOVERY_S + 6)
        when(lambda: are_gone([frozen]), 30)
        job.wait(lambda status: status["faults"] == 1, 60)
        job.interrupt()
    finally:
        job.kill()
    assert "no progress for 6 s" in job.faults_log()
    cut = last_metrics(job.run.path)["faults/env_steps_cut"]
    measured("an actor's process frozen (6 s of them its deadline)", seconds, f"{cut} env steps")


def test_a_killed_learner_rank_restarts_the_group(nodes: Cluster, tmp_path: Path) -> None:
    job = start_job(tmp_path, *cluster_options(nodes), "--actors", "2", "--learners", "2")
    try:
        job.wait_for_actors(2)
        actors = processes_in(nodes, ACTOR)
        before = job.status()["updates"]
        kill(processes_in(nodes, RANK)[1])
        seconds = job.wait(
            lambda status: status["learner_restarts"] == 1 and status["updates"] > before + 3, RANK_RECOVERY_S
        )
        assert sorted(processes_in(nodes, ACTOR)) == sorted(actors), "the actors survive"
        job.interrupt()
    finally:
        job.kill()
    assert re.search("learner rank [01] died", job.faults_log())
    last = last_metrics(job.run.path)
    steps = last["faults/updates_undone"] * BATCH_SIZE * UNROLL_LENGTH
    lost = f"{last['faults/updates_undone']:.0f} updates ({steps:.0f} env steps), {last['queue/dropped']:.0f} unrolls"
    measured("a learner rank killed", seconds, lost)


def test_the_actors_of_a_killed_node_produce_elsewhere(nodes: Cluster, tmp_path: Path) -> None:
    """Three nodes with two CPUs each and three actors: there is room on the other two."""
    nodes.add_node(wait=False, num_cpus=2, node_ip_address="127.0.0.1", include_dashboard=False)
    nodes.wait_for_nodes(PATIENCE_S)
    job = start_job(tmp_path, *cluster_options(nodes), "--actors", "3")
    try:
        job.wait_for_actors(3)
        head, *others = nodes.list_all_nodes()
        assert processes_on(head, RANK), "the driver runs on the head"
        victim = next(node for node in others if processes_on(node, ACTOR))
        gone = processes_on(victim, ACTOR)
        nodes.remove_node(victim, allow_graceful=False)
        seconds = job.wait_for_replacement(3, len(gone), NODE_RECOVERY_S)
        when(lambda: are_gone(gone), 30)
        job.wait_for_progress()
        job.wait(lambda _: "has left" in job.faults_log(), 60)
        assert job.status()["faults"] == 0, "an actor that leaves with its node is no fault"
        job.interrupt()
    finally:
        job.kill()
    last = last_metrics(job.run.path)
    lost = f"{last['faults/env_steps_cut']:.0f} env steps under way, {last['queue/dropped']:.0f} unrolls"
    measured(f"a node with {len(gone)} of 3 actors killed", seconds, lost)


def test_a_node_that_dies_under_a_busy_actor_holds_nobody_up(nodes: Cluster, tmp_path: Path) -> None:
    """Raylet and all: Ray itself calls the actor temporarily unavailable for many seconds, and tries to reach it."""
    nodes.add_node(wait=False, num_cpus=2, node_ip_address="127.0.0.1", include_dashboard=False)
    nodes.wait_for_nodes(PATIENCE_S)
    job = start_job(tmp_path, *cluster_options(nodes), "--actors", "3")
    try:
        job.wait_for_actors(3)
        victim = next(node for node in nodes.list_all_nodes()[1:] if processes_on(node, ACTOR))
        gone = processes_on(victim, ACTOR)
        before = job.status()["updates"]
        nodes.remove_node(victim, allow_graceful=False)
        learning = job.wait(lambda status: status["updates"] > before + 20, BUSY_NODE_S)
        seconds = job.wait_for_replacement(3, len(gone), BUSY_NODE_S)
        job.wait(lambda _: "has left" in job.faults_log(), 60)
        assert job.status()["faults"] == 0
        job.interrupt()
    finally:
        job.kill()
    measured(f"a node with {len(gone)} busy actors killed; learned on in {learning:.1f} s", seconds, "see above")


@pytest.mark.parametrize("processes", [False, True])
def test_faults_of_an_environment(processes: bool, nodes: Cluster, tmp_path: Path) -> None:
    """One after another in one run; where it hangs is in the log, whether it runs in its actor's process or its own."""
    job = start_job(
        tmp_path, *cluster_options(nodes), "--actors", "2", "--step-timeout-s", "3", "--processes", str(processes)
    )
    try:
        job.wait_for_actors(2)
        for number, fault in enumerate(TOLD, start=1):
            cut = job.env_steps_cut()
            seconds = job.fail_environment(fault)
            job.wait(lambda _: last_metrics(job.run.path)["faults/replaced"] == number, 30)  # noqa: B023 (asked at once)
            lost = f"{job.env_steps_cut() - cut:.0f} env steps"
            measured(f"an environment: {fault}, processes {processes}", seconds, lost)
        assert not any(actor["restarts"] for actor in job.status()["actors"]), "environments are replaced, not actors"
        job.interrupt()
    finally:
        job.kill()
    assert "in _suffer" in job.faults_log()
    assert "time.sleep(3600)" in job.faults_log()


def test_worker_processes_of_environments_end_with_their_actor(nodes: Cluster, tmp_path: Path) -> None:
    job = start_job(tmp_path, *cluster_options(nodes), "--actors", "1", "--processes", "True")
    try:
        job.wait_for_actors(1)
        (actor,) = processes_in(nodes, ACTOR)
        workers = descendants(actor)
        assert len(workers) >= 4, "an environment each, and the server that starts them"
        kill(actor)
        when(lambda: are_gone(workers), 30)
        seconds = job.wait_for_replacement(1, 1, ACTOR_RECOVERY_S)
        measured("an actor killed whose environments are processes", seconds, "see above")
        workers = descendants(job.process.pid) + descendants(processes_in(nodes, ACTOR)[0])
        job.interrupt()
        when(lambda: are_gone(workers), 30)
    finally:
        job.kill()


@pytest.mark.parametrize("own_cluster", [False, True])
def test_a_killed_driver_leaves_nothing_behind_and_is_resumed(
    own_cluster: bool, nodes: Cluster, tmp_path: Path
) -> None:
    place = ("--place", "ray", "--cpus-per-actor", "0.5") if own_cluster else cluster_options(nodes)
    job = start_job(tmp_path, *place, "--actors", "2", "--checkpoint-minutes", "0.05")
    resumed = None
    try:
        job.wait_for_actors(2)
        when(lambda: len(list(job.run.checkpoints.iterdir())) >= 2, 60)
        if own_cluster:
            processes = descendants(job.process.pid)
        else:
            processes = processes_in(nodes, ACTOR) + processes_in(nodes, RANK)
        assert len(processes) >= 3
        kill(job.process.pid)
        killed_at = time.monotonic()
        job.process.communicate()
        reached = job.status()["env_steps"]
        saved = job.run.latest().checkpoint
        resumed = resume_job(job)
        resumed.wait(lambda status: status["pid"] == resumed.process.pid and status["updates"] > 0, START_S)
        progress = saved.values["progress"]
        resumed.wait(lambda status: status["updates"] > progress["updates"] and num_producing(status) == 2, START_S)
        seconds = time.monotonic() - killed_at
        when(lambda: are_gone(processes), HELPERS_END_S if own_cluster else 30)
        resumed.interrupt()
    finally:
        job.kill()
        if resumed is not None:
            resumed.kill()
    last = last_metrics(job.run.path)
    assert last["faults/unrolls_lost"] == progress["unrolls_lost"] + saved.values["unrolls_at_hand"]
    assert last["env_steps"] > saved.step
    steps = max(0, reached - saved.step)
    lost = f"{steps} env steps since the checkpoint, {saved.values['unrolls_at_hand']} unrolls at hand"
    measured(f"the driver killed, then resumed; own cluster {own_cluster}", seconds, lost)


def test_ctrl_c_ends_a_cluster_that_was_started_for_the_run(tmp_path: Path) -> None:
    """As a terminal does it: the signal reaches all processes of Ray as well."""
    place = ("--place", "ray", "--cpus-per-actor", "0.5")
    job = start_job(tmp_path, *place, "--actors", "2", "--processes", "True", start_new_session=True)
    try:
        job.wait_for_actors(2)
        processes = descendants(job.process.pid)
        assert len(processes) > 6
        started = time.monotonic()
        os.killpg(job.process.pid, signal.SIGINT)
        job.end()
        seconds = time.monotonic() - started
        assert "SIGINT received" in job.output
        assert "replaced: " not in job.output
        when(lambda: are_gone(processes), 30)
    finally:
        job.kill()
    measured("Ctrl-C", seconds, "the unrolls at hand")


def test_lost_objects_are_dropped(nodes: Cluster, tmp_path: Path) -> None:
    """Unrolls wait for a frozen learner when the node whose object store holds them dies."""
    nodes.add_node(wait=False, num_cpus=2, node_ip_address="127.0.0.1", include_dashboard=False)
    nodes.wait_for_nodes(PATIENCE_S)
    options = ("--queue-unrolls", "100", "--actors", "3", "--filters", "8", "8", "8")
    job = start_job(tmp_path, *cluster_options(nodes), *options, environment="pong")
    try:
        job.wait_for_actors(3)
        (rank,) = processes_in(nodes, RANK)
        os.kill(rank, signal.SIGSTOP)
        time.sleep(5)
        victim = next(node for node in nodes.list_all_nodes()[1:] if processes_on(node, ACTOR))
        nodes.remove_node(victim, allow_graceful=False)
        os.kill(rank, signal.SIGCONT)
        seconds = job.wait_for_progress() + job.wait(lambda status: status["account"]["dropped"] > 0, 60)
        job.wait_for_progress()
        job.interrupt()
    finally:
        job.kill()
    last = last_metrics(job.run.path)
    assert last["faults/learner_restarts"] == 0
    assert last["queue/learned"] * UNROLL_LENGTH == last["env_steps"], "what was lost is not counted as learned"
    measured("objects lost with their node", seconds, f"{last['queue/dropped']:.0f} unrolls")


def test_a_full_object_store_slows_the_run_but_does_not_end_it(private_home: Path, tmp_path: Path) -> None:
    """The learner is frozen and the queue may hold three times what the store does: Ray moves it to the disk."""
    cluster = Cluster()
    node = {"num_cpus": 2, "node_ip_address": "127.0.0.1", "include_dashboard": False}
    cluster.add_node(wait=False, object_store_memory=80 * 2**20, **node)
    cluster.wait_for_nodes(PATIENCE_S)
    options = ("--queue-unrolls", "1500", "--actors", "2", "--filters", "8", "8", "8")
    job = start_job(tmp_path, *cluster_options(cluster), *options, environment="pong")
    try:
        job.wait_for_actors(2)
        (rank,) = processes_in(cluster, RANK)
        os.kill(rank, signal.SIGSTOP)
        when(lambda: any(private_home.rglob("ray_spilled_objects_*/*")), 90)
        accepted = job.status()["account"]["accepted"]
        os.kill(rank, signal.SIGCONT)
        seconds = job.wait_for_progress()
        job.wait(lambda status: status["account"]["learned"] >= accepted, 120)
        job.interrupt()
    finally:
        job.kill()
        cluster.shutdown()
    last = last_metrics(job.run.path)
    assert (last["queue/dropped"], last["faults/replaced"]) == (0, 0)
    measured("a full object store", seconds, "nothing")
