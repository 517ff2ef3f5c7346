"""Learning: fixed seeds, thresholds that a random policy misses. What takes half a minute is marked slow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import machina
from machina.checkpoint import RunDirectory

ONE_THREAD: dict[str, Any] = {"learner_threads": 1, "actor_threads": 1, "precision": "float32"}
QUICK: dict[str, Any] = {**ONE_THREAD, "optimizer": "adam", "learning_rate": 3e-3, "batch_size": 8}


def train(algorithm: str, environment: str, runs_dir: Path, **options: Any) -> machina.jobs.api.TrainedRun:
    return machina.train(algorithm, environment, name="run", runs_dir=runs_dir, **options)


def scores(run: machina.jobs.api.TrainedRun, episodes: int) -> dict[str, float]:
    return machina.evaluate(run.path, episodes=episodes, seed=1).mean_returns


@pytest.mark.parametrize("place", ["inline", "local"])
@pytest.mark.parametrize("algorithm", ["impala", "impala_popart"])
def test_catch_is_learned(algorithm: str, place: str, tmp_path: Path) -> None:
    """Best return 1, random -0.6."""
    run = train(algorithm, "catch", tmp_path, place=place, total_frames=60_000, **QUICK)
    assert scores(run, 200)["catch"] >= 0.95


@pytest.mark.parametrize("place", ["inline", pytest.param("local", marks=pytest.mark.slow)])
def test_cartpole_reaches_475_over_100_episodes(place: str, tmp_path: Path) -> None:
    """With the shipped configuration. Random: 22; the best is 500."""
    run = train("impala", "CartPole-v1", tmp_path, place=place, until_return=475, **ONE_THREAD)
    assert run.reason.startswith("the mean return of the last 100 episodes reached 4")
    episodes = RunDirectory.open(run.path).latest().checkpoint.values["episodes"]["latest"]
    assert len(episodes) == 100
    assert sum(episodes) / 100 >= 475


def test_popart_solves_two_tasks_whose_rewards_differ_a_thousandfold(tmp_path: Path) -> None:
    """Best returns 10 and 10,000, random a quarter of it. The same run without PopArt learns at most one of the two."""
    options = {**QUICK, "place": "inline", "reward_clip": "none", "total_frames": 80_000}
    with_popart = scores(train("impala_popart", "two_scales", tmp_path / "with", **options, popart_beta=0.01), 100)
    without = scores(train("impala", "two_scales", tmp_path / "without", **options), 100)
    assert with_popart["small"] >= 9.5
    assert with_popart["large"] >= 9_500
    assert min(without["small"] / 10, without["large"] / 10_000) < 0.6
