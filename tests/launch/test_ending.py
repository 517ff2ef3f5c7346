"""When a session ends, and why."""

from __future__ import annotations

import pytest

from machina.launch.configuration import job_config
from machina.launch.ending import Ending


def test_a_signal_in_the_middle_of_a_look_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python calls a signal's handler between any two instructions, so also while the goals are compared."""
    config, _ = job_config("impala", "catch", "defaults")
    ending = Ending(config, 1000)
    goal_met = Ending._goal_met

    def interrupted(self: Ending, env_steps: int, mean_return: float | None) -> str | None:
        self.request("SIGINT received")
        return goal_met(self, env_steps, mean_return)

    monkeypatch.setattr(Ending, "_goal_met", interrupted)
    assert ending.look(10, None) == "SIGINT received"
    assert ending.reason == "SIGINT received"


def test_the_first_reason_stays() -> None:
    config, _ = job_config("impala", "catch", "defaults", until_return=3.0)
    ending = Ending(config, 1000)
    assert ending.look(10, None) is None
    assert ending.look(10, 2.9) is None
    assert ending.look(10, 3.0) == "the mean return of the last 100 episodes reached 3.0"
    assert ending.look(1000, 3.0) == "the mean return of the last 100 episodes reached 3.0"
    assert not ending.interrupted
