"""Wrappers that learn are refused by name; their statistics would be in no checkpoint."""

import re
from typing import Any

import numpy as np
import pytest
from learning_wrappers import HELD, normalizing

import machina
from machina.config import EnvConfig
from machina.envs.builders import ENVIRONMENTS, describe, parse_environment, register_environment
from machina.errors import UserError

IN_GYMNASIUM = "gymnasium.wrappers.vector"


def refusal(told: str, held: str, remedy: str) -> str:
    """A pattern of the whole message."""
    message = (
        f"{told} learns statistics ({held}), of which every group of environments would have its own, and eval, watch "
        f"and load_policy none; leave it out and use {remedy}"
    )
    return f"^{re.escape(message)}$"


@pytest.mark.parametrize(
    ("wrapper", "kind", "held", "remedy"),
    [
        (f"{IN_GYMNASIUM}:NormalizeObservation", "NormalizeObservation", "obs_rms", "--observation-filter"),
        (f"{IN_GYMNASIUM}:NormalizeReward", "NormalizeReward", "return_rms", "--popart"),
        ("learning_wrappers:kept", "Kept", "obs_rms", "--observation-filter"),
        ("learning_wrappers:copied", "Copied", "statistics", "--observation-filter"),
    ],
)
@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "catch", "pong"])
def test_a_vector_wrapper_that_learns_is_refused(name: str, wrapper: str, kind: str, held: str, remedy: str) -> None:
    with pytest.raises(UserError, match=refusal(f"wrapper {wrapper!r}: {kind}", held, remedy)):
        parse_environment(name, describe(name)(), wrapper)


@pytest.mark.parametrize(
    ("name", "kind", "held", "remedy"),
    [
        ("learning_wrappers:Normalizing-v0", "NormalizeObservation", "obs_rms", "--observation-filter"),
        ("learning_wrappers:Specified-v0", "NormalizeReward", "return_rms", "--popart"),
        ("normalizing", "NormalizeReward", "return_rms", "--popart"),
    ],
)
def test_a_wrapper_around_single_environments_is_refused(
    name: str, kind: str, held: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("machina.envs.builders.ENVIRONMENTS", dict(ENVIRONMENTS))
    register_environment("normalizing", normalizing)
    assert describe("normalizing") is EnvConfig
    with pytest.raises(UserError, match=refusal(f"environment {name!r}: {kind}", held, remedy)):
        parse_environment(name, describe(name)())


def test_other_wrappers_are_taken() -> None:
    env = parse_environment("CartPole-v1", describe("CartPole-v1")(), "learning_wrappers:halved").make([0])
    env.reset([1])
    rewards = [env.step(np.zeros(1, np.int64)).reward[0] for _ in range(3)]
    env.close()
    assert rewards == [0.5] * 3, "it is there, too"


@pytest.mark.parametrize("kind", HELD)
def test_environments_that_hold_anything_are_taken(kind: str) -> None:
    name = f"learning_wrappers:Held_{kind}-v0"
    assert parse_environment(name, describe(name)()).spec.name == name


@pytest.mark.parametrize("algorithm", ["impala", "ppo"])
def test_the_remedies_exist(algorithm: str, tmp_path: Any) -> None:
    run = machina.train(
        algorithm,
        "CartPole-v1",
        observation_filter=True,
        popart=True,
        total_frames=64,
        unroll_length=4,
        batch_size=4,
        envs_per_task=4,
        place="inline",
        hidden_sizes=(8,),
        runs_dir=tmp_path,
    )
    assert run.updates >= 4
