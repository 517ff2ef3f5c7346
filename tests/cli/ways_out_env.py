"""Environments, a network and a wrapper with ways out of a run that are not foreseen."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Plain(gymnasium.Env[Any, Any]):
    """Episodes of eight steps; every reward is 1.

    Args:
        step_s: what a step takes.
        exits: whether the fifth step of an episode calls sys.exit, once.
    """

    observation_space = spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, step_s: float = 0.0, exits: bool = False) -> None:
        self._step_s = step_s
        self._exits = exits

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed, options=options)
        self._steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        assert action in self.action_space
        time.sleep(self._step_s)
        self._steps += 1
        if self._exits and self._steps == 5 and not Path("exited").exists():
            Path("exited").touch()
            sys.exit("the simulator gave up")
        return np.zeros(2, np.float32), 1.0, self._steps == 8, False, {}


gymnasium.register("Plain-v0", "ways_out_env:Plain")
gymnasium.register("Exits-v0", "ways_out_env:Plain", kwargs={"exits": True})
gymnasium.register("Slow-v0", "ways_out_env:Plain", kwargs={"step_s": 0.1})


class SlowStart(Plain):
    """Takes a second to be built, but for the first one, which only shows its spaces."""

    def __init__(self) -> None:
        super().__init__()
        if Path("built").exists():
            time.sleep(1)
        Path("built").touch()


gymnasium.register("SlowStart-v0", "ways_out_env:SlowStart")
