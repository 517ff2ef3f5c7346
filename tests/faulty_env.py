"""An environment with a fault that strikes at a chosen step: once, or in every episode."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

EPISODE = 8
"""Steps of an episode; every reward is 1."""


class Faulty(gymnasium.Env[Any, Any]):
    """Counts its steps.

    Args:
        fault: what happens: raises, nan, nan_reward, shape, sleeps, enormous, or nothing.
        at: the step of an episode at which it strikes; 0 is the reset.
        marker: a file that is made when it strikes, after which it does no more; None strikes always.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(self, fault: str = "", at: int = 3, marker: str | None = None, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(0.0, 10.0, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.render_mode = render_mode
        self._fault, self._at, self._marker = fault, at, marker
        self._steps = 0

    def _strikes(self) -> bool:
        if self._steps != self._at or not self._fault:
            return False
        if self._marker is None:
            return True
        try:
            Path(self._marker).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed, options=options)
        self._steps = 0
        if self._strikes():
            if self._fault == "sleeps":
                time.sleep(600)
            raise RuntimeError("no power")
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        assert action in self.action_space
        self._steps += 1
        observation, reward = np.full(2, self._steps, np.float32), 1.0
        if self._strikes():
            if self._fault == "raises":
                raise RuntimeError("the engine stalled\nin a second line")
            if self._fault == "sleeps":
                time.sleep(600)
            if self._fault == "nan":
                observation[1] = np.nan
            if self._fault == "nan_reward":
                reward = float("nan")
            if self._fault == "shape":
                observation = np.zeros(3, np.float32)
            if self._fault == "enormous":
                reward = 3e38
        return observation, reward, self._steps == EPISODE, False, {}

    def render(self) -> Any:
        return np.full((8, 8, 3), self._steps, np.uint8)


gymnasium.register("Sound-v0", "faulty_env:Faulty")
gymnasium.register("Raises-v0", "faulty_env:Faulty", kwargs={"fault": "raises"})
gymnasium.register("Sleeps-v0", "faulty_env:Faulty", kwargs={"fault": "sleeps"})
gymnasium.register("NeverStarts-v0", "faulty_env:Faulty", kwargs={"fault": "sleeps", "at": 0})
gymnasium.register("NoStart-v0", "faulty_env:Faulty", kwargs={"fault": "raises", "at": 0})
gymnasium.register("Enormous-v0", "faulty_env:Faulty", kwargs={"fault": "enormous"})
