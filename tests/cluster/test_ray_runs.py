"""Whole runs with ``--place ray``: the same as elsewhere, and alive when a node dies."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import assert_account_is_exact, node_without_driver, when
from ray.cluster_utils import Cluster
from ray_nodes import start_nodes

import machina
from machina.checkpoint import RunDirectory

UPDATES = 12


def train_in_lock_step(tmp_path: Path, place: str) -> dict[str, torch.Tensor]:
    """The model of a recurrent PopArt agent on two tasks, after some updates."""
    run = machina.train(
        "impala_popart",
        "two_scales",
        "defaults",
        place=place,
        actors=2,
        lock_step=True,
        precision="float32",
        batch_size=5,
        unroll_length=4,
        envs_per_task=4,
        lstm_size=8,
        learner_threads=1,
        actor_threads=1,
        total_frames=UPDATES * 20,
        runs_dir=tmp_path,
        name=place,
    )
    assert run.updates == UPDATES
    return dict(RunDirectory.open(tmp_path / place).latest().checkpoint.tensors["model"])


def test_the_same_seeds_give_the_same_model_in_every_place(tmp_path: Path) -> None:
    inline, local, cluster = (train_in_lock_step(tmp_path, place) for place in ("inline", "local", "ray"))
    for key, tensor in inline.items():
        assert torch.equal(tensor, local[key])
        assert torch.equal(tensor, cluster[key])


def faults_of(run: RunDirectory) -> str:
    """The run's log of faults so far."""
    log = run.path / "faults.log"
    return log.read_text(encoding="utf-8") if log.exists() else ""


@pytest.fixture
def two_nodes(private_home: Path) -> Iterator[Cluster]:
    """A cluster of two nodes of two CPUs each; the driver joins the first."""
    assert private_home.exists()
    cluster = start_nodes(2, 2)
    yield cluster
    cluster.shutdown()


def test_a_run_survives_the_death_of_a_node(two_nodes: Cluster, tmp_path: Path) -> None:
    """Four actors on two nodes; one node dies, its actors leave without a fault, the run continues until Ctrl-C."""
    run = RunDirectory(tmp_path / "run")
    seen: dict[str, Any] = {}

    def kill() -> None:
        when(lambda: run.path.joinpath("status.json").exists() and len(run.status().actors) == 4, 120)
        when(lambda: all(actor.env_steps for actor in run.status().actors), 120)
        two_nodes.remove_node(node_without_driver(two_nodes), allow_graceful=False)
        when(lambda: len(run.status().actors) == 2, 60)
        seen["env_steps"] = run.status().env_steps
        when(lambda: run.status().env_steps > seen["env_steps"], 60)
        run.request_actors(1)
        when(lambda: len(run.status().actors) == 1, 30)
        when(lambda: "has left" in faults_of(run), 60)
        seen["status"] = run.status()
        os.kill(os.getpid(), signal.SIGINT)

    killer = threading.Thread(target=kill)
    killer.start()
    outcome = machina.train(
        "impala",
        "catch",
        "defaults",
        place="ray",
        address=two_nodes.address,
        actors="auto",
        envs_per_task=8,
        batch_size=4,
        unroll_length=20,
        minutes=4,
        runs_dir=tmp_path,
        name="run",
    )
    killer.join()
    assert "status" in seen, "the node was killed and the run continued"
    assert_account_is_exact(run.status())
    assert run.status().faults == 0, "an actor that leaves with its node is no fault"
    assert outcome.env_steps > seen["env_steps"]
    assert not run.latest().warnings
