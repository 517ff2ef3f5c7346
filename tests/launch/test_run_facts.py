"""What a run says of itself before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from machina.checkpoint import RunDirectory
from machina.jobs.session import run_facts
from machina.launch.configuration import job_config
from machina.launch.plan import plan_run


@pytest.mark.parametrize(
    ("algorithm", "environment", "options", "network", "rewards"),
    [
        ("impala", "catch", {}, "mlp of 50 inputs: observation 50", "as the environment gives them"),
        ("impala", "CartPole-v1", {"reward_clip": "clip"}, "mlp of 4 inputs: observation 4", "clipped to [-1, 1]"),
        ("ppo", "pong", {}, "shallow: observation 4x84x84 (CHW, divided by 255)", "as the environment gives them"),
        (
            "impala_popart",
            "pong,breakout",
            {"network": {"torso": "deep", "lstm_size": 256, "separate_roles": True}},
            "deep: observation 4x84x84 (CHW, divided by 255); then an LSTM of 256; one for each of 2",
            "clipped to [-1, 1]; value targets normalized by PopArt",
        ),
        (
            "pqn",
            "CartPole-v1",
            {},
            "mlp of 4 inputs: observation 4; layer normalization",
            "as the environment gives them",
        ),
        (
            "pqn",
            "pong,breakout",
            {"minibatches": 8, "network": {"layer_norm": False, "lstm_size": 16, "task_heads": True}},
            "shallow: observation 4x84x84 (CHW, divided by 255); then an LSTM of 16; a head for each of 2 tasks",
            "clipped to [-1, 1]",
        ),
        (
            "ppo",
            "catch",
            {"network": {"network_name": "mine:net"}},
            "mine:net (your own)",
            "as the environment gives them",
        ),
    ],
)
def test_how_observations_and_rewards_are_read(
    algorithm: str, environment: str, options: dict[str, Any], network: str, rewards: str, tmp_path: Path
) -> None:
    config, source = job_config(algorithm, environment, "defaults", algo=options)
    facts = run_facts(plan_run(config), RunDirectory.create(tmp_path, "run", ""), source, 0)
    assert (facts.network, facts.rewards) == (network, rewards)


@pytest.mark.parametrize(
    ("algorithm", "options", "expected"),
    [
        ("ppo", {}, ""),
        ("pqn", {}, "a random action with probability 1, falling to 0.001 over the first 10% of the run"),
        ("pqn", {"epsilon": 0.1, "epsilon_final": 0.1}, "a random action with probability 0.1"),
        (
            "pqn",
            {"epsilon": 0.4, "epsilon_final": 0.4, "epsilon_spread": 7.0},
            "a random action with probability 0.4; less in later slots",
        ),
    ],
)
def test_how_it_explores_and_where_a_resumed_schedule_continues(
    algorithm: str, options: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    """A schedule that is given more frames goes back: epsilon may rise again, and the first lines show it."""
    config, source = job_config(algorithm, "catch", "defaults", algo=options, total_frames=200_000)
    run = RunDirectory.create(tmp_path, "run", "")
    new, resumed = (run_facts(plan_run(config), run, source, done) for done in (0, 50_000))
    assert new.exploration == resumed.exploration == expected
    assert new.goal == "200,000 frames"
    assert resumed.goal == "200,000 frames (schedules continue at 25% of them)"
