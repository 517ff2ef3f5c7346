"""Environments in the processes of a cluster are closed as elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import machina


def test_actors_close_their_environments_also_in_the_middle_of_a_round(private_home: Path, tmp_path: Path) -> None:
    machina.train(
        "impala",
        "struck_env:Noted-v0",
        "defaults",
        place="ray",
        runs_dir=tmp_path,
        processes=False,
        envs_per_task=2,
        batch_size=2,
        unroll_length=5,
        hidden_sizes=(16,),
        actor_threads=1,
        learner_threads=1,
        total_frames=100,
    )
    closed = {file.name for file in private_home.glob("closed-by-*")}
    assert closed - {f"closed-by-{os.getpid()}"}, "the driver closes the one whose spaces it read"
