"""What environments start ends with the command, on every way out."""

import signal
import uuid
from pathlib import Path

import pytest
from processes import running, start, wait_until

TASKS = """
import subprocess
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv


class Started(gymnasium.Env):
    observation_space = spaces.Box(0, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.program = subprocess.Popen(["sleep", "{argument}"])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {{}}

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, False, False, {{}}

    def close(self):
        {close}


class Game(ParallelEnv):
    metadata = {{"name": "game", "render_modes": []}}

    def __init__(self) -> None:
        self.program = subprocess.Popen(["sleep", "{argument}"])
        self.possible_agents = ["a_0", "b_0"]
        self.agents = []

    def observation_space(self, agent):
        return spaces.Box(0, 1, (2,), np.float32)

    def action_space(self, agent):
        return spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return self._all(np.zeros(2, np.float32)), self._all({{}})

    def step(self, actions):
        return self._all(np.zeros(2, np.float32)), self._all(1.0), self._all(False), self._all(False), self._all({{}})

    def _all(self, value):
        return {{agent: value for agent in self.agents}}

    def close(self):
        {close}


def parallel_env(**options):
    return Game()


gymnasium.register("Started-v0", Started)
"""
ENDS = "self.program.terminate(); self.program.wait()"


@pytest.mark.parametrize(
    ("environment", "close", "options", "number"),
    [
        ("Started-v0", ENDS, (), signal.SIGTERM),
        ("Started-v0", "pass", ("--processes", "False"), signal.SIGINT),
        ("parallel_env", ENDS, (), signal.SIGTERM),
    ],
)
def test_a_signal_ends_what_environments_started(
    environment: str, close: str, options: tuple[str, ...], number: int, tmp_path: Path
) -> None:
    argument = f"4712.{uuid.uuid4().int}"
    (tmp_path / "outside_tasks.py").write_text(TASKS.format(argument=argument, close=close))
    command = ("train", "impala", f"outside_tasks:{environment}", "--envs-per-task", "2", "--batch-size", "2", *options)
    process = start(*command, cwd=tmp_path)
    wait_until(lambda: any(tmp_path.glob("runs/*/metrics.jsonl")), process)
    wait_until(lambda: len(running(argument)) >= 2, process)
    process.send_signal(number)
    output = "\n".join(process.communicate(timeout=120))
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert not running(argument)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_commands_that_train_nothing_close_their_environments_too(number: signal.Signals, tmp_path: Path) -> None:
    argument = f"4712.{uuid.uuid4().int}"
    (tmp_path / "outside_tasks.py").write_text(TASKS.format(argument=argument, close=ENDS))
    process = start("doctor", "impala", "outside_tasks:parallel_env", "--seconds", "600", cwd=tmp_path)
    wait_until(lambda: len(running(argument)) >= 1, process)
    process.send_signal(number)
    output = "\n".join(process.communicate(timeout=120))
    assert process.returncode == 128 + number, output
    assert "Traceback" not in output
    assert not running(argument)
