"""Runs that never make an update end with a line that says why, in every place."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import machina
from machina.checkpoint import RunDirectory

PLACES = ["inline", "local", "ray"]


def train(environment: str, place: str, runs_dir: Path, **options: Any) -> None:
    small = {"hidden_sizes": (16,), "precision": "float32", "actor_threads": 1, "learner_threads": 1}
    where = {"place": place, "runs_dir": runs_dir, "name": "run", "processes": False, "envs_per_task": 2}
    machina.train("impala", f"struck_env:{environment}", "defaults", batch_size=2, **small, **where, **options)


@pytest.mark.parametrize("place", PLACES)
def test_an_environment_that_fails_in_every_unroll(place: str, tmp_path: Path) -> None:
    with pytest.raises(machina.RunFailedError) as failure:
        train("Stalled-v0", place, tmp_path, max_restarts=2, minutes=2)
    message = str(failure.value)
    assert message.startswith("environment 'struck_env:Stalled-v0': step raised RuntimeError: the engine stalled (")
    assert message.endswith("; environments and actors failed 3 times (max_restarts)")
    log = RunDirectory(tmp_path / "run").faults_log.read_text(encoding="utf-8")
    assert log.count("Traceback") == 3


@pytest.mark.parametrize("place", PLACES)
def test_minutes_that_are_over_before_the_first_update(place: str, tmp_path: Path) -> None:
    before = set(threading.enumerate())  # other tests leave threads that hang
    with pytest.raises(machina.RunFailedError) as failure:
        train("Sluggish-v0", place, tmp_path, unroll_length=10_000, minutes=0.05)
    message = str(failure.value)
    assert message.startswith("0.05 minutes are over and nothing was learned: ")
    assert message.endswith("0 of the 2 unrolls of an update were there; give it more --minutes")
    run = RunDirectory.open(tmp_path / "run")
    assert run.latest().checkpoint.values["progress"]["updates"] == 0
    assert run.status().ended == "0.05 minutes are over"
    left = [each.name for each in set(threading.enumerate()) - before if each.name.startswith(("actor", "step "))]
    assert not left, "an actor hears of the end in the middle of a round"
