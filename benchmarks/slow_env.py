"""An environment whose step is a millisecond of pure Python; ``slow_env:Slow-v0``."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

STEP_S = 1e-3
EPISODE_LENGTH = 200


class Slow(gymnasium.Env[npt.NDArray[np.float32], np.int64]):
    """Counts its steps; holds the interpreter lock as Python code does."""

    observation_space = spaces.Box(0, 1, (4,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed, options=options)
        self._steps = 0
        return np.zeros(4, np.float32), {}

    def step(self, action: np.int64) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Work for a millisecond of this thread's CPU time."""
        end = time.thread_time() + STEP_S
        while time.thread_time() < end:
            pass
        self._steps += 1
        observation = np.full(4, self._steps / EPISODE_LENGTH, np.float32)
        return observation, float(action), self._steps >= EPISODE_LENGTH, False, {}


gymnasium.register("Slow-v0", entry_point="slow_env:Slow")
