"""An environment on which a test brings a fault down while the run continues, wherever in the cluster it is stepped."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

EPISODE = 50
"""Steps of an episode; every reward is 1."""

STEP_S = 0.002
"""What a step takes, so that the learner keeps pace and the machine is not full."""

FAULTS = ("raises", "sleeps", "nan")


def strike_file(fault: str) -> Path:
    """Whoever removes this file suffers the fault. The private home is the same for all processes of a cluster."""
    return Path.home() / f"strike-{fault}"


class Struck(gymnasium.Env[Any, Any]):
    """Counts its steps until a fault strikes."""

    observation_space = spaces.Box(0.0, EPISODE, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed, options=options)
        self._steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        assert action in self.action_space
        time.sleep(STEP_S)
        self._steps += 1
        observation = np.full(2, self._steps, np.float32)
        for fault in FAULTS:
            if _strikes(fault):
                observation = _suffer(fault, observation)
        return observation, 1.0, self._steps == EPISODE, False, {}


def _strikes(fault: str) -> bool:
    file = strike_file(fault)
    if not file.exists():
        return False
    try:
        file.unlink()
    except FileNotFoundError:  # it struck another one
        return False
    return True


def _suffer(fault: str, observation: Any) -> Any:
    if fault == "raises":
        raise RuntimeError("the engine stalled")
    if fault == "sleeps":
        time.sleep(3600)
    return observation * np.nan


gymnasium.register("Struck-v0", "struck_env:Struck")


class Stalled(Struck):
    """Fails at every third step, in every unroll that is longer."""

    def step(self, action: Any) -> Any:
        if self._steps == 2:
            raise RuntimeError("the engine stalled")
        return super().step(action)


class Sluggish(Struck):
    """No unroll of any length is full in time."""

    def step(self, action: Any) -> Any:
        time.sleep(0.2)
        return super().step(action)


gymnasium.register("Stalled-v0", "struck_env:Stalled")
gymnasium.register("Sluggish-v0", "struck_env:Sluggish")


class Noted(Struck):
    """Leaves a file where it is closed."""

    def close(self) -> None:
        (Path.home() / f"closed-by-{os.getpid()}").touch()


gymnasium.register("Noted-v0", "struck_env:Noted")
