"""PPO learns: fixed seeds, thresholds that a random policy misses. What takes half a minute is marked slow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import machina
from machina.checkpoint import RunDirectory
from machina.jobs.api import TrainedRun
from machina.metrics import read_metrics

ONE_THREAD: dict[str, Any] = {"learner_threads": 1, "actor_threads": 1, "precision": "float32"}
QUICK: dict[str, Any] = {
    **ONE_THREAD,
    "config": "defaults",
    "unroll_length": 20,
    "epochs": 4,
    "learning_rate": 5e-3,
    "clip": 0.2,
    "hidden_sizes": (64,),
    "entropy_cost": 0.005,
}
PENDULUM: dict[str, Any] = {
    **ONE_THREAD,
    "config": "defaults",
    "place": "inline",
    "envs_per_task": 8,
    "processes": False,
    "unroll_length": 64,
    "batch_size": 8,
    "epochs": 6,
    "learning_rate": 1e-3,
    "clip": 0.2,
    "clip_final": None,
    "entropy_cost": 0.0,
    "hidden_sizes": (32,),
    "separate_value": True,
    "observation_filter": True,
    "popart": True,
    "popart_beta": 0.05,
}


def train(environment: str, runs_dir: Path, **options: Any) -> TrainedRun:
    return machina.train("ppo", environment, name="run", runs_dir=runs_dir, **options)


def scores(run: TrainedRun, episodes: int) -> dict[str, float]:
    return machina.evaluate(run.path, episodes=episodes, seed=1).mean_returns


@pytest.mark.parametrize("runtime", [{"place": "inline"}, {"place": "local", "lock_step": True}, {"place": "local"}])
def test_catch_is_learned(runtime: dict[str, Any], tmp_path: Path) -> None:
    """Best return 1, random -0.6. In step with the actors, and with data that may be one update old."""
    run = train("catch", tmp_path, envs_per_task=32, batch_size=32, total_frames=60_000, **QUICK, **runtime)
    assert scores(run, 200)["catch"] >= 0.85
    lags = [line["actor/policy_lag_max"] for line in read_metrics(run.path) if "actor/policy_lag_max" in line]
    assert max(lag or 0 for lag in lags) <= (1 if runtime == {"place": "local"} else 0)


def test_popart_solves_two_tasks_whose_rewards_differ_a_thousandfold(tmp_path: Path) -> None:
    """Best returns 10 and 10,000, random a quarter of it. Without PopArt at most one of the two is learned."""
    options = {**QUICK, "place": "inline", "envs_per_task": 8, "batch_size": 16, "total_frames": 50_000}
    with_popart = scores(train("two_scales", tmp_path / "with", popart=True, **options), 50)
    without = scores(train("two_scales", tmp_path / "without", **options), 50)
    assert with_popart["small"] >= 9
    assert with_popart["large"] >= 9_000
    assert min(without["small"] / 10, without["large"] / 10_000) < 0.5


@pytest.mark.slow
def test_a_cue_is_recalled_after_20_steps_with_an_lstm_and_not_without(tmp_path: Path) -> None:
    """With the shipped configuration. Best return 1, without memory 0."""
    options = {**ONE_THREAD, "place": "inline"}
    recurrent = train("recall", tmp_path / "lstm", **options)
    assert scores(recurrent, 300)["recall"] > 0.9
    forward = train("recall", tmp_path / "forward", lstm_size=0, **options)
    # Four deviations of the mean of 1,000 guesses.
    assert abs(scores(forward, 1000)["recall"]) < 0.13


@pytest.mark.slow
def test_cartpole_reaches_475_over_100_episodes(tmp_path: Path) -> None:
    """With the shipped configuration. Random: 22; the best is 500."""
    run = train("CartPole-v1", tmp_path, place="inline", until_return=475, **ONE_THREAD)
    assert run.reason.startswith("the mean return of the last 100 episodes reached 4")
    episodes = RunDirectory.open(run.path).latest().checkpoint.values["episodes"]["latest"]
    assert len(episodes) == 100
    assert sum(episodes) / 100 >= 475
    assert run.env_steps <= 200_000


@pytest.mark.slow
@pytest.mark.parametrize(("bins", "frames", "least"), [(None, 60_000, 800), (7, 40_000, 250)])
def test_a_pole_is_balanced_with_real_numbers(bins: int | None, frames: int, least: float, tmp_path: Path) -> None:
    """Continuous actions, and the same cut into bins. Best return 1000, random 8."""
    run = train("InvertedPendulum-v5", tmp_path, total_frames=frames, action_bins=bins, **PENDULUM)
    assert scores(run, 30)["InvertedPendulum-v5"] >= least
