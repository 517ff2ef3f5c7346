"""A league whose actors are processes of a Ray cluster: snapshots reach them, and their games come back."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import assert_account_is_exact

import machina
from machina.checkpoint import RunDirectory
from machina.launch.self_play import snapshots_folder
from machina.league.pool import Snapshot
from machina.metrics import read_metrics

UPDATES = 24
BATCH = 16
T = 16
SMALL: dict[str, Any] = {
    "place": "ray",
    "actors": 2,
    "cpus_per_actor": 0.25,
    "precision": "float32",
    "actor_threads": 1,
    "learner_threads": 1,
    "env_threads": 1,
    "envs_per_task": 8,
    "unroll_length": T,
    "batch_size": BATCH,
    "minibatches": 2,
    "epochs": 1,
    "learning_rate": 0.02,
    "torso": "mlp",
    "hidden_sizes": (16,),
    "lstm_size": 4,
    "snapshot_updates": 3,
    "rating_games": 10,
    "pool_share": 0.5,
    "quality_step": 0.5,
    "opponents_in_memory": 2,
}


def league_of(run: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads((run / "league" / "league.json").read_text(encoding="utf-8"))
    return table


def snapshots_of(run: Path) -> list[Snapshot]:
    return [Snapshot(*(row[field] for field in Snapshot._fields)) for row in league_of(run)["snapshots"]]


@pytest.mark.filterwarnings("error")
def test_a_league_in_a_cluster_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its actors play the pool, its snapshots are the learner's, and it ends by itself."""
    options = {**SMALL, "total_frames": UPDATES * BATCH * T}
    run = machina.train("ppo", "connect_four", "defaults", runs_dir=tmp_path, name="run", **options)
    assert run.reason == "the schedule is complete"
    assert run.updates - UPDATES in (0, 1), "one update may be under way at the end"
    assert capsys.readouterr().err == ""
    table = league_of(run.path)
    assert [row["name"] for row in table["snapshots"]] == [f"u{updates:06d}" for updates in range(3, UPDATES + 1, 3)]
    met = {row["name"]: row["wins"] + row["losses"] + row["draws"] for row in table["snapshots"]}
    assert sum(met.values()) == table["games"]["pool"]
    assert sum(count > 0 for count in met.values()) >= 2, "several snapshots reached the actors"
    assert table["games"]["self"] > 0
    beaten = [row for row in table["snapshots"] if row["wins"]]
    assert beaten
    assert all(row["quality"] < 0 for row in beaten), "what was won came back"

    status = RunDirectory.open(run.path).status()
    assert status.faults == 0
    assert [actor.env_steps > 0 for actor in status.actors] == [True, True]
    assert_account_is_exact(status)
    assert read_metrics(run.path)[-1]["league/games_pool"] == table["games"]["pool"]

    checkpoint = RunDirectory.open(run.path).latest().checkpoint
    assert checkpoint.values["league"]["games"] == table["games"]
    store = snapshots_folder(RunDirectory.open(run.path))
    parameters = [store.load(snapshot) for snapshot in snapshots_of(run.path)]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(parameters, 2))
