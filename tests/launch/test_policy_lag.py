"""The bound on the age of what is learned: actors wait rather than collect what would be dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import machina
from machina.metrics import read_metrics

SMALL: dict[str, Any] = {
    "precision": "float32",
    "actor_threads": 1,
    "learner_threads": 1,
    "env_threads": 1,
    "envs_per_task": 16,
    "unroll_length": 10,
    "batch_size": 16,
    "hidden_sizes": (16,),
    "total_frames": 24_000,
    "log_seconds": 1e-6,
}


def largest_lag(run: Path) -> float:
    """Of all updates; a line of a moment without one has none."""
    return max(lag for row in read_metrics(run) if (lag := row.get("actor/policy_lag_max")) is not None)


@pytest.mark.parametrize("lag", [0, 1, 3])
@pytest.mark.parametrize("actors", [1, 2])
def test_what_is_learned_is_young_and_little_is_dropped(lag: int, actors: int, tmp_path: Path) -> None:
    run = machina.train(
        "ppo", "catch", "defaults", runs_dir=tmp_path, name="run", max_policy_lag=lag, actors=actors, **SMALL
    )
    last = read_metrics(run.path)[-1]
    learned, dropped, accepted = (last[f"queue/{name}"] or 0 for name in ("learned", "dropped", "accepted"))
    assert largest_lag(run.path) <= lag
    assert learned >= 2400
    assert dropped <= 0.2 * accepted


@pytest.mark.parametrize("lag", [0, 1])
def test_ranks_that_are_an_update_ahead_keep_the_bound_and_nobody_waits_indefinitely(lag: int, tmp_path: Path) -> None:
    options = SMALL | {"batch_size": 8, "envs_per_task": 8 * (lag + 1), "total_frames": 4_000}
    run = machina.train(
        "ppo", "catch", "defaults", runs_dir=tmp_path, name="run", max_policy_lag=lag, learners=2, **options
    )
    assert run.reason == "the schedule is complete"
    assert largest_lag(run.path) <= lag


@pytest.mark.parametrize("place", ["inline", "local"])
def test_a_batch_is_one_unroll_of_every_slot_unless_stated_otherwise(place: str, tmp_path: Path) -> None:
    """Else the same slots would be too old in every round, and never be learned from."""
    options = SMALL | {"place": place, "envs_per_task": 24}
    del options["batch_size"]
    run = machina.train("ppo", "two_scales", "defaults", runs_dir=tmp_path, name="run", **options)
    assert run.updates == 24_000 // (2 * 24 * 10)
    assert read_metrics(run.path)[-1]["queue/dropped"] == 0
    assert largest_lag(run.path) <= (0 if place == "inline" else 1)


@pytest.mark.parametrize("runtime", [{"place": "inline"}, {"place": "local"}, {"place": "local", "lock_step": True}])
def test_a_bound_that_would_drop_the_same_slots_of_every_round_is_refused(
    runtime: dict[str, Any], tmp_path: Path
) -> None:
    options = SMALL | {"envs_per_task": 33} | runtime
    with pytest.raises(machina.UserError) as refusal:
        machina.train("ppo", "catch", "defaults", runs_dir=tmp_path, name="run", **options)
    assert str(refusal.value) == (
        "batch_size=16: 33 unrolls are collected with the same parameters, and the last ones would be 2 updates old; "
        "use --batch-size 33 or --max-policy-lag 2"
    )
    machina.train("ppo", "catch", "defaults", runs_dir=tmp_path, name="run", max_policy_lag=2, **options)
