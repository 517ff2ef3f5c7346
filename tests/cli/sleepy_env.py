"""An environment whose third step takes ten minutes."""

import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Sleepy(gymnasium.Env[Any, Any]):
    observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed, options=options)
        self._steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        assert action in self.action_space
        self._steps += 1
        if self._steps == 3:
            Path("asleep").touch()
            time.sleep(600)
        return np.zeros(1, np.float32), 1.0, False, False, {}


gymnasium.register("Sleepy-v0", "sleepy_env:Sleepy")
