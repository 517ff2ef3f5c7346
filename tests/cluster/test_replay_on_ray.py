"""Ape-X with two actors and two replay shards: what dies is replaced, and every env step is accounted for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import (
    ACTOR,
    ACTOR_RECOVERY_S,
    RANK,
    RANK_RECOVERY_S,
    Job,
    cluster_options,
    kill,
    last_metrics,
    measured,
    processes_in,
    resume_job,
    start_job,
)
from ray.cluster_utils import Cluster
from ray_nodes import start_nodes

import machina
from machina.checkpoint import RunDirectory

pytestmark = pytest.mark.cluster

SHARD = "ray::ShardWorker"
SHARD_RECOVERY_S = 60.0
OPTIONS = (
    *("--learning-starts", "500", "--replay-capacity", "20000", "--replay-shards", "2", "--replay-ratio", "2"),
    *("--actors", "2", "--learners", "2"),
)


@pytest.fixture(scope="module")
def nodes(private_home: Path) -> Iterator[Cluster]:
    """A head with two CPUs, on which the driver runs, and a node with two."""
    assert private_home.exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        cluster = start_nodes(2, 2)
    yield cluster
    cluster.shutdown()


def start_apex(nodes: Cluster, folder: Path, *options: str) -> Job:
    return start_job(folder, *cluster_options(nodes), *OPTIONS, *options, algorithm="apex")


def test_a_shard_an_actor_and_a_rank_are_killed_and_an_actor_frozen(nodes: Cluster, tmp_path: Path) -> None:
    job = start_apex(nodes, tmp_path, "--step-timeout-s", "2")
    try:
        job.wait_for_actors(2)
        kill(processes_in(nodes, SHARD)[0])
        lost = job.wait(lambda status: status["account"]["lost"] > 0, SHARD_RECOVERY_S)
        seconds = lost + job.wait_for_progress()
        assert len(processes_in(nodes, SHARD)) == 2
        assert "an empty one takes its place" in job.faults_log()
        measured("a replay shard killed", seconds, f"{job.status()['account']['lost']} env steps of the replay")

        kill(processes_in(nodes, ACTOR)[0])
        job.wait_for_replacement(2, 1, ACTOR_RECOVERY_S)
        job.wait_for_progress()

        os.kill(processes_in(nodes, ACTOR)[0], signal.SIGSTOP)
        job.wait_for_replacement(2, 2, ACTOR_RECOVERY_S + 6)
        job.wait_for_progress()

        before = job.status()["updates"]
        kill(processes_in(nodes, RANK)[1])
        job.wait(lambda status: status["learner_restarts"] == 1 and status["updates"] > before + 3, RANK_RECOVERY_S)
        job.interrupt()
    finally:
        job.kill()
    assert last_metrics(job.run.path)["replay/ratio"] == pytest.approx(2, rel=0.05)


def test_a_killed_driver_s_run_is_resumed_with_its_replay(nodes: Cluster, tmp_path: Path) -> None:
    job = start_apex(nodes, tmp_path, "--checkpoint-minutes", "0.05")
    try:
        job.wait_for_actors(2)
        job.wait(lambda _: len(list((job.run.path / "checkpoints").glob("0*"))) >= 2, 60)
        kill(job.process.pid)
        job.process.communicate()
    finally:
        job.kill()
    pieces = {piece["part"]: piece for piece in job.run.latest().checkpoint.values["replay"]}
    assert {"0-rest", "1-rest", "counters"} < pieces.keys()
    collected = job.run.latest().checkpoint.step
    again = resume_job(job)
    try:
        again.wait(lambda status: status["pid"] == again.process.pid and status["updates"] > 0, 150)
        assert again.status()["account"]["collected"] >= collected, "it goes on with what was stored"
        again.wait_for_progress()
        again.interrupt()
    finally:
        again.kill()


@pytest.mark.parametrize("algorithm", ["apex", "r2d2"])
def test_the_same_seeds_give_the_same_model_in_every_place(algorithm: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "total_frames": 600, "learning_starts": 100, "replay_capacity": 2000, "replay_ratio": 2.0, "batch_size": 8,
        "envs_per_task": 4, "unroll_length": 5, "hidden_sizes": (16,), "lock_step": True, "seed": 5,
        "precision": "float32", "learner_threads": 1, "actor_threads": 1,
    }  # fmt: skip
    if algorithm == "r2d2":
        options |= {"burn_in_length": 3, "sequence_length": 7, "lstm_size": 4}
    models = []
    for place in ("inline", "local", "ray"):
        path = machina.train(algorithm, "catch", name=place, runs_dir=tmp_path, place=place, **options).path
        models.append(RunDirectory.open(path).latest().checkpoint.tensors["model"])
    for key, tensor in models[0].items():
        assert all(torch.equal(tensor, other[key]) for other in models[1:]), key
