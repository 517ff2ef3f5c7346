"""Wrong options of the algorithms with a replay: one line, exit code 2, nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Command

CASES: dict[str, tuple[tuple[str, ...], str]] = {
    "larger than memory": (
        ("rainbow", "pong", "--replay-capacity", "9000000000"),
        "use a smaller --replay-capacity, or --compress-frames",
    ),
    "a batch larger than the buffer": (
        ("dqn", "catch", "--replay-capacity", "20", "--learning-starts", "5"),
        "batch_size=32 is more than the replay_capacity of 20 env steps",
    ),
    "alpha": (("dqn", "catch", "--priority-exponent", "1.5"), "priority_exponent=1.5: must be 0 to 1"),
    "beta": (
        ("dqn", "catch", "--importance-sampling-exponent", "-0.1"),
        "importance_sampling_exponent=-0.1: must be 0 to 1",
    ),
    "a ratio without demonstrations": (
        ("dqn", "catch", "--demo-ratio", "1/4"),
        "demo_ratio=1/4 needs demonstrations: --demos FOLDER",
    ),
    "a ratio above 1": (
        ("dqn", "catch", "--demos", ".", "--demo-ratio", "1.0 -> 3 over 10"),
        "demo_ratio='1.0 -> 3 over 10': a share must be above 0 and at most 1",
    ),
    "r2d3 without demonstrations": (("r2d3", "catch"), "r2d3 learns from demonstrations; use --demos FOLDER"),
    "a folder that is not there": (
        ("dqn", "catch", "--demos", "nowhere"),
        "demonstrations 'nowhere' can't be read: No such file",
    ),
    "numbers as actions": (
        ("rainbow", "Pendulum-v1"),
        "these are continuous; use ppo, which learns numbers, or choices of each with --action-bins",
    ),
    "several agents": (("apex", "connect_four"), "is a game of 2; use ppo"),
    "a run that ends before it learns": (
        ("dqn", "catch", "--total-frames", "1000"),
        "learning_starts=50000: the whole run is 1,000 env steps",
    ),
    "ranks among shards": (
        ("dqn", "catch", "--replay-shards", "2", "--priority", "rank"),
        "replay_shards=2: priority=rank ranks the items of one shard",
    ),
    "a bound on the age of what is kept": (
        ("dqn", "catch", "--max-policy-lag", "3", "--learning-starts", "10"),
        "max_policy_lag=3: what lies in a replay is older as a rule",
    ),
    "sequences with gaps": (
        ("r2d2", "recall", "--sequence-length", "5"),
        "sequence_length=5: a sequence begins every unroll_length=10 env steps, and those between two would never be "
        "learned; use unroll_length=5 or less",
    ),
    "r2d2 without memory": (("r2d2", "recall", "--lstm-size", "0"), "lstm_size=0: r2d2 learns a recurrent network"),
    "memory for transitions": (
        ("dqn", "catch", "--lstm-size", "8"),
        "lstm_size=8: a transition has no core state to begin with; use r2d2, or --lstm-size 0",
    ),
    "an empty range of returns": (("rainbow", "catch", "--v-min", "3", "--v-max", "3"), "v_min=3 must be less than"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_in_one_line(case: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments, message = CASES[case]
    assert message in Command(capsys, tmp_path).refused("train", *arguments, "--runs-dir", tmp_path / "runs")


def test_demonstrations_of_another_environment_and_damaged_files(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cli = Command(capsys, tmp_path)
    demos = tmp_path / "demos"
    cli.good("record", "CartPole-v1", "--out", demos, "--script", "random", "--episodes", "3", "--no-pictures")
    line = cli.refused("train", "dqn", "MountainCar-v0", "--demos", demos)
    assert "is CartPole-v1, here it is MountainCar-v0" in line
    file = sorted(demos.iterdir())[1]
    file.write_bytes(file.read_bytes()[:-10])
    options = ("--learning-starts", "60", "--total-frames", "300", "--replay-capacity", "1000")
    out = cli.good("train", "dqn", "CartPole-v1", "--demos", demos, *options, "--runs-dir", tmp_path / "runs")
    assert "2 demonstrations of" in out
    assert file.name in out
