"""No place collects without end: what waits for the learner has a bound, and the policy lag follows from it."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from faults import RANK, assert_account_is_exact, descendants, title_of, when

import machina
from machina.checkpoint import RunDirectory
from machina.metrics import read_metrics

SLOTS, BATCH_SIZE, UNROLL_LENGTH = 64, 4, 5
AHEAD = 2
"""Batches with the learner: one is learned while the next is fetched."""

MOST_QUEUED = {
    # An actor's threads hand a group over; its process a round of both groups, and collects another on top of the
    # queue.
    "inline": BATCH_SIZE - 1 + SLOTS,
    "local": BATCH_SIZE - 1 + SLOTS // 2,
    "ray": BATCH_SIZE - 1 + SLOTS + SLOTS,
}


def train(runs_dir: Path, place: str, **options: Any) -> RunDirectory:
    """One actor that is faster than the learner of small batches."""
    defaults = {
        "place": place,
        "actors": 1,
        "envs_per_task": SLOTS,
        "batch_size": BATCH_SIZE,
        "unroll_length": UNROLL_LENGTH,
        "hidden_sizes": (16,),
        "precision": "float32",
        "actor_threads": 1,
        "learner_threads": 1,
        "log_seconds": 0.2,
    }
    run = machina.train("impala", "catch", "defaults", name="run", runs_dir=runs_dir, **defaults | options)
    return RunDirectory.open(run.path)


def assert_bounded(run: RunDirectory, place: str) -> None:
    """At every line of the run's metrics."""
    lines = read_metrics(run.path)
    assert_account_is_exact(run.status())
    assert lines[-1]["queue/dropped"] == 0
    assert max(line["queue/queued"] or 0 for line in lines) <= MOST_QUEUED[place] + AHEAD * BATCH_SIZE
    lags = [line["actor/policy_lag_mean"] or 0 for line in lines]
    assert max(lags) <= (SLOTS + MOST_QUEUED[place]) / BATCH_SIZE + 1


@pytest.mark.parametrize("place", ["inline", "local"])
def test_what_waits_and_the_policy_lag_are_bounded(place: str, tmp_path: Path) -> None:
    assert_bounded(train(tmp_path, place, total_frames=600 * BATCH_SIZE * UNROLL_LENGTH), place)


def test_actors_in_a_cluster_wait_for_a_learner_that_stands_still(tmp_path: Path) -> None:
    """What was collected meanwhile is learned afterwards, so the policy lag shows it as well."""
    run = RunDirectory(tmp_path / "run")

    def stop_learner() -> None:
        when(lambda: (run.path / "status.json").exists() and run.status().updates > 0, 60)
        (rank,) = (pid for pid in descendants(os.getpid()) if title_of(pid).startswith(RANK))
        os.kill(rank, signal.SIGSTOP)
        time.sleep(3)  # many rounds of the actor
        os.kill(rank, signal.SIGCONT)
        before = run.status().updates
        when(lambda: run.status().updates > before + 100, 60)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=stop_learner)
    thread.start()
    train(tmp_path, "ray", minutes=1)
    thread.join()
    assert_bounded(run, "ray")
    assert (run.status().faults, run.status().learner_restarts) == (0, 0)
