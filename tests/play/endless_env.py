"""A task that never ends, and a game of eight workers who share one random reward."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

WORKERS = 8
SHARED = "endless_env:parallel_env"


class Walk(gymnasium.Env[Any, Any]):
    """No step is the last one."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed, options=options)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:  # noqa: ARG002
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), 0.1, False, False, {}


class Shared(ParallelEnv):  # type: ignore[misc]
    """One step, or no end where ``ends`` is false; everybody gets the same, drawn from a normal distribution."""

    ends = True

    metadata = {"name": "shared_v0", "render_modes": []}  # noqa: RUF012

    def __init__(self) -> None:
        self.possible_agents = [f"worker_{index}" for index in range(WORKERS)]

    def observation_space(self, agent: str) -> Any:  # noqa: ARG002
        return spaces.Box(-1, 1, (2,), np.float32)

    def action_space(self, agent: str) -> Any:  # noqa: ARG002
        return spaces.Discrete(2)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:  # noqa: ARG002
        self._random = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        return self._seen(), {agent: {} for agent in self.agents}

    def _seen(self) -> dict[str, Any]:
        return {agent: np.zeros(2, np.float32) for agent in self.possible_agents}

    def step(self, actions: dict[str, Any]) -> Any:  # noqa: ARG002
        common = float(self._random.normal())
        over = dict.fromkeys(self.agents, self.ends)
        rewards = dict.fromkeys(self.agents, common)
        infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        if self.ends:
            self.agents = []
        return self._seen(), rewards, over, dict.fromkeys(over, False), infos


parallel_env = Shared
gymnasium.register("Walk-v0", "endless_env:Walk")
