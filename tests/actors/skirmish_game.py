"""A game in which agents are out before it is over, as a user would write it."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv


class Skirmish(ParallelEnv):  # type: ignore[misc]
    """Two against two: who dares (action 2) gets 1 and is out. A side that is out has lost; a limit ends the game.

    Observed are who is out and how many steps are over.
    """

    metadata = {"name": "skirmish"}  # noqa: RUF012
    limit = 14

    def __init__(self) -> None:
        self.possible_agents = ["red_0", "red_1", "blue_0", "blue_1"]

    def observation_space(self, agent: str) -> spaces.Box:  # noqa: ARG002
        return spaces.Box(0, self.limit, (5,), np.float32)

    def action_space(self, agent: str) -> spaces.Discrete:  # noqa: ARG002
        return spaces.Discrete(8)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:  # noqa: ARG002
        self.agents = list(self.possible_agents)
        self._steps = 0
        return self._seen(self.agents), {agent: {} for agent in self.agents}

    def _seen(self, agents: list[str]) -> dict[str, Any]:
        numbers = [float(agent in self.agents) for agent in self.possible_agents] + [self._steps]
        return {agent: np.array(numbers, np.float32) for agent in agents}

    def step(self, actions: dict[str, Any]) -> Any:
        before, self._steps = self.agents, self._steps + 1
        out = [agent for agent in before if actions[agent] == 2]
        self.agents = [agent for agent in before if agent not in out]
        sides = {agent.partition("_")[0] for agent in self.agents}
        over = len(sides) < 2
        terminated = {agent: over or agent in out for agent in before}
        truncated = {agent: self._steps == self.limit and not terminated[agent] for agent in before}
        seen = self._seen(before)
        self.agents = [agent for agent in self.agents if not (terminated[agent] or truncated[agent])]
        return seen, {agent: float(agent in out) for agent in before}, terminated, truncated, {a: {} for a in before}


parallel_env = Skirmish
