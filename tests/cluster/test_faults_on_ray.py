"""Faults of a run in the place ``ray``: it goes on by itself, or ends with a good checkpoint, and nothing is uncounted.

What each fault costs stands in docs/reliability.md; `pytest -m cluster -s` prints it anew.
"""

from __future__ import annotations

import os
import signal
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
    UNROLL_LENGTH,
    Job,
    are_gone,
    kill,
    last_metrics,
    measured,
    processes_in,
    processes_on,
    start_job,
    when,
)
from ray.cluster_utils import Cluster
from ray_nodes import start_nodes

pytestmark = pytest.mark.cluster


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
    job = start_job(nodes, tmp_path, "--actors", "2")
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
