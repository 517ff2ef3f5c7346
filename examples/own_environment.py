"""An environment of your own: a gymnasium id in a module is all it takes.

    cd examples && machina train impala own_environment:Corridor-v0 --minutes 0.5

or from Python::

    python examples/own_environment.py
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

LENGTH = 12


class Corridor(gymnasium.Env[np.ndarray, np.int64]):
    """Walk to the right end of a corridor; every step costs 0.05, the end pays 1."""

    observation_space = spaces.Box(0.0, 1.0, (LENGTH,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start at the left end."""
        super().reset(seed=seed, options=options)
        self._place = 0
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Action 1 goes right, 0 left."""
        self._place = max(0, self._place + (1 if action == 1 else -1))
        arrived = self._place == LENGTH - 1
        return self._observation(), 1.0 if arrived else -0.05, arrived, False, {}

    def _observation(self) -> np.ndarray:
        observation = np.zeros(LENGTH, np.float32)
        observation[self._place] = 1
        return observation


gymnasium.register("Corridor-v0", entry_point="own_environment:Corridor", max_episode_steps=100)


if __name__ == "__main__":
    import machina

    run = machina.train("impala", "own_environment:Corridor-v0", minutes=0.5, envs_per_task=4)
    print(machina.evaluate(run.path, episodes=10).mean_returns)
