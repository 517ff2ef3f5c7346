"""Options of other trainers lead to what they are called here."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Command

from machina.cli.other_names import OTHER_NAMES
from machina.config import option_paths
from machina.registry import ALGORITHMS, run_config_type


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command(capsys, tmp_path)


@pytest.mark.parametrize(
    ("algorithm", "option", "meant"),
    [
        ("ppo", "--lr", "--learning-rate"),
        ("impala", "--lr", "--learning-rate"),
        ("ppo", "--lr=3e-4", "--learning-rate"),
        ("ppo", "--n-steps", "--unroll-length"),
        ("ppo", "--n_steps", "--unroll-length"),
        ("ppo", "--num-envs", "--envs-per-task"),
        ("ppo", "--total-timesteps", "--total-frames"),
        ("ppo", "--ent-coef", "--entropy-cost"),
        ("ppo", "--vf-coef", "--value-cost"),
        ("impala", "--vf-coef", "--baseline-cost"),
        ("ppo", "--lam", "--gae-lambda"),
        ("impala", "--lam", "--vtrace-lambda"),
        ("ppo", "--clip-range", "--clip"),
        ("ppo", "--n-epochs", "--epochs"),
    ],
)
def test_options_of_other_trainers(algorithm: str, option: str, meant: str, cli: Command) -> None:
    line = cli.refused("train", algorithm, "CartPole-v1", option, "1")
    assert line == f"unknown option {option!r}; did you mean '{meant}'?"


def test_every_hint_is_an_option_of_some_command_and_none_is_taken() -> None:
    names = {
        name
        for algorithm in ALGORITHMS
        for env in ("pong", "catch")
        for name in option_paths(run_config_type(algorithm, env))
    }
    known = {f"--{name.replace('_', '-')}" for name in names} | {"--episodes"}
    for other, meant in OTHER_NAMES.items():
        assert set(meant) <= known, other
        assert f"--{other}" not in known, other


def test_a_command_hints_at_its_own_options_only(cli: Command) -> None:
    assert (
        cli.refused("eval", "runs/x", "--n-episodes", "3")
        == "unknown option '--n-episodes'; did you mean '--episodes'?"
    )
    assert cli.refused("eval", "runs/x", "--lr", "3") == "unknown option '--lr'; see machina eval --help"
