"""The observation filter over whole runs: every step that was learned from counts once, and nothing else does."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import machina
from machina.algorithms.ppo.learning import PPOLearner
from machina.checkpoint import RunDirectory, load_checkpoint
from machina.interfaces import Policy
from machina.jobs.loaded_run import load_run
from machina.learner.filter_statistics import EPSILON
from machina.types import BEHAVIOUR_LOGITS, OBSERVATION, ActorInput, Array, FloatArray, Unroll
from machina.types import Learned as CameTo

ENVIRONMENT = "InvertedPendulum-v5"
"""Continuous; a policy that knows nothing ends its episodes every few steps."""
UPDATES = 18
STOPS = (5, 12)
OPTIONS: dict[str, Any] = {
    "precision": "float32",
    "actor_threads": 1,
    "learner_threads": 1,
    "processes": False,
    "envs_per_task": 7,
    "unroll_length": 16,
    "batch_size": 5,
    "hidden_sizes": (8,),
    "observation_filter": True,
    # Evaluations in the middle of training, whose observations count for nothing.
    "eval_every": 300,
    "eval_episodes": 2,
    "total_frames": UPDATES * 5 * 16,
}


class Learned(NamedTuple):
    """What a learner's updates were given, and what the last one left."""

    observations: list[Array]
    """Of each update, ``[steps, numbers]`` float32: those it may learn from."""
    ignored: list[int]
    """Of each update: reset steps."""
    parameters: list[Tensor]
    """After each update, as they are published."""


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> Learned:
    """Keeps what the learner sees, and stops the run with a signal after the updates in ``STOPS``."""
    kept = Learned([], [], [])
    update = PPOLearner.update

    def update_and_keep(self: PPOLearner, batch: Unroll[Array], done: float) -> CameTo:
        counts = ~(batch.terminated | batch.truncated)[:-1]
        kept.observations.append(batch.observation[OBSERVATION][:-1][counts].copy())
        kept.ignored.append(int((~counts).sum()))
        came_to = update(self, batch, done)
        kept.parameters.append(self.flat_parameters())
        if self.updates in STOPS:
            os.kill(os.getpid(), signal.SIGTERM)
        return came_to

    monkeypatch.setattr(PPOLearner, "update", update_and_keep)
    return kept


def statistics(run: Path) -> dict[str, Tensor]:
    """The filter's part of the last checkpoint."""
    tensors = RunDirectory.open(run).latest().checkpoint.tensors["model"]
    return {name.removeprefix("filter."): tensor for name, tensor in tensors.items() if name.startswith("filter.")}


def one_pass(observations: list[Array]) -> dict[str, Array]:
    """Count, mean and squared distances, by definition."""
    rows = np.concatenate(observations).astype(np.float64)
    mean = rows.mean(axis=0)
    return {"count": np.array(len(rows)), "mean": mean, "squares": np.square(rows - mean).sum(axis=0)}


@pytest.mark.parametrize("actors", [1, 3])
@pytest.mark.parametrize("place", ["inline", "local"])
def test_the_statistics_are_one_pass_over_all_that_was_learned_from(
    place: str, actors: int, learned: Learned, tmp_path: Path
) -> None:
    path = machina.train(
        "ppo", ENVIRONMENT, "defaults", name="run", runs_dir=tmp_path, place=place, actors=actors, **OPTIONS
    ).path
    for stop in (*STOPS, UPDATES):
        checkpoint = RunDirectory.open(path).latest().checkpoint
        assert len(learned.observations) == checkpoint.values["progress"]["updates"] == stop
        found, expected = statistics(path), one_pass(learned.observations)
        assert found.keys() == {f"{kind}.{OBSERVATION}" for kind in expected}
        for kind, array in expected.items():
            np.testing.assert_allclose(found[f"{kind}.{OBSERVATION}"].numpy(), array, rtol=1e-9, atol=1e-12)
        # Linear in env steps: each is counted once, but for those that only reset.
        assert int(found[f"count.{OBSERVATION}"]) == checkpoint.step - sum(learned.ignored)
        assert checkpoint.step == stop * 5 * 16
        if stop != UPDATES:
            machina.resume(path)
    assert sum(learned.ignored) > 50, "episodes end in these data"
    assert len(list((path / "report").glob("evaluation-*.json"))) >= 3


def answers(policy: Policy, observation: FloatArray) -> list[Array]:
    """What a policy does with ``[B, numbers]`` observations: its actions and its distributions."""
    count = len(observation)
    uniforms = np.random.default_rng(0).random((count, 1), np.float32)
    nothing = np.zeros(count, np.float32)
    first, task = np.zeros(count, np.bool_), np.zeros(count, np.int64)
    slots = np.arange(count)
    answer = policy.act(
        ActorInput({OBSERVATION: observation}, nothing, nothing[:, None], first, task, (), uniforms, slots)
    )
    return [answer.action, answer.policy_outputs[BEHAVIOUR_LOGITS]]


def test_evaluation_acts_as_training_did_and_leaves_the_filter_as_it_was(learned: Learned, tmp_path: Path) -> None:
    options = {**OPTIONS, "total_frames": (STOPS[0] - 1) * 5 * 16}
    path = machina.train("ppo", ENVIRONMENT, "defaults", name="run", runs_dir=tmp_path, place="inline", **options).path
    checkpoint = RunDirectory.open(path).latest().checkpoint
    files = {file: file.read_bytes() for file in checkpoint.path.iterdir()}
    seen = np.concatenate(learned.observations)

    loaded = load_run(path)
    training = loaded.plan.algorithm.make_policy(loaded.plan.spec, "cpu", "float32", explores=True, num_slots=16)
    training.load_parameters(learned.parameters[-1], done=1.0)
    expected = answers(training, seen)
    for got, array in zip(answers(loaded.policy, seen), expected, strict=True):
        np.testing.assert_array_equal(got, array)
    # The filter is what they stand on: unfiltered observations of mean 0 and deviation 1 get the same answers.
    by_hand = one_pass(learned.observations)
    scaled = (seen - by_hand["mean"]) / np.sqrt(by_hand["squares"] / by_hand["count"] + EPSILON)
    plain = dict(checkpoint.tensors["model"])
    plain["observation_filter.mean.0"] = torch.zeros(4)
    plain["observation_filter.scale.0"] = torch.ones(4)
    training.load_tensors(plain)
    for got, array in zip(answers(training, np.clip(scaled, -5, 5).astype(np.float32)), expected, strict=True):
        np.testing.assert_allclose(got, array, rtol=1e-4, atol=1e-5)
    assert not np.allclose(answers(training, seen)[1], expected[1], atol=1e-3)

    once, again = (machina.evaluate(path, episodes=5, seed=3) for _ in range(2))
    assert once.episodes == again.episodes
    after = load_checkpoint(checkpoint.path)
    assert {file: file.read_bytes() for file in after.path.iterdir()} == files
    for got, array in zip(answers(loaded.policy, seen), expected, strict=True):
        np.testing.assert_array_equal(got, array)
