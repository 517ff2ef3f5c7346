"""Demonstrations in training: alone at first, then as a share of every batch, in every place of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Command

from machina.metrics import read_metrics


@pytest.mark.parametrize("place", ["inline", "local"])
def test_updates_from_demonstrations_alone_come_before_anything_is_collected(
    place: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cli = Command(capsys, tmp_path)
    demos = tmp_path / "demos"
    cli.good("record", "CartPole-v1", "--out", demos, "--script", "random", "--episodes", "5", "--no-pictures")
    options = (
        *("--demos", demos, "--demo-ratio", "1.0 -> 1/8 over 500", "--margin-cost", "1", "--n-step", "3"),
        *("--pretraining-updates", "30", "--learning-starts", "100", "--total-frames", "4000"),
        *("--replay-capacity", "2000", "--replay-ratio", "2", "--hidden-sizes", "16", "--log-seconds", "1e-9"),
        *("--learner-threads", "1", "--actor-threads", "1", "--epsilon-final", "1"),
    )
    where = ("--place", place, "--runs-dir", tmp_path / "runs", "--name", "run")
    out = cli.good("train", "dqn", "CartPole-v1", *options, *where)
    assert "5 demonstrations of" in out
    lines = read_metrics(tmp_path / "runs" / "run")
    assert lines[0]["env_steps"] == 0
    last = lines[-1]
    assert last["replay/ratio"] == pytest.approx(2, rel=0.06), "what came before is not counted"
    alone = [line for line in lines if line["env_steps"] == 0 and "actor/policy_lag_max" in line]
    assert alone
    assert {line["actor/policy_lag_max"] for line in alone} == {0}, "a demonstration lags behind nothing"
