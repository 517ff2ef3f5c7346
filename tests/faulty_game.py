"""A user's own game for two that fails where and as often as a test asks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

NAME = "faulty_game:parallel_env"
EPISODE = 4
STRIKES_AT = 2
"""Step of a game."""


class Trouble:
    """What happens to games that are built in a thread of that name from now on, and how often."""

    def __init__(self) -> None:
        self.thread = ""
        """ratings: that of rating games; MainThread: that of matches, and of all in place inline."""
        self.fault = ""
        """raises, nan, sleeps, unbuildable, or absent (a game without red)."""
        self.left = 0.0
        self.on_sleep: Callable[[], object] = lambda: None
        self.wake_up = threading.Event()

    def strikes(self, fault: str) -> bool:
        """Whether it strikes now."""
        if self.fault != fault or self.left <= 0:
            return False
        self.left -= 1
        return True


trouble = Trouble()


class Duel(ParallelEnv):  # type: ignore[misc]
    """Whoever plays the larger numbers wins."""

    metadata = {"name": "duel", "render_modes": []}  # noqa: RUF012

    def __init__(self) -> None:
        self.possible_agents = ["red_0", "blue_0"]
        # Of the test that built it: a game that an earlier test left behind may wake up during a later one.
        self._trouble = trouble
        self._in_trouble = trouble.thread == threading.current_thread().name
        if self._in_trouble and trouble.strikes("unbuildable"):
            raise RuntimeError("all licences are in use")

    def observation_space(self, agent: str) -> Any:  # noqa: ARG002
        return spaces.Box(0, EPISODE, (1,), np.float32)

    def action_space(self, agent: str) -> Any:  # noqa: ARG002
        return spaces.Discrete(3)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:  # noqa: ARG002
        absent = self._in_trouble and self._trouble.strikes("absent")
        self.agents = self._players = [agent for agent in self.possible_agents if not (absent and agent == "red_0")]
        self._steps = 0
        return self._seen(), {agent: {} for agent in self.agents}

    def _seen(self) -> dict[str, Any]:
        return {agent: np.full(1, self._steps, np.float32) for agent in self._players}

    def step(self, actions: dict[str, Any]) -> Any:
        self._steps += 1
        rewards = {agent: float(action) for agent, action in actions.items()}
        if self._in_trouble and self._steps == STRIKES_AT:
            if self._trouble.strikes("raises"):
                raise RuntimeError("the sword broke")
            if self._trouble.strikes("nan"):
                rewards["red_0"] = float("nan")
            if self._trouble.strikes("sleeps"):
                self._trouble.on_sleep()
                self._trouble.wake_up.wait(600)
        over = dict.fromkeys(self._players, self._steps == EPISODE)
        infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        self.agents = [agent for agent in self.agents if not over[agent]]
        return self._seen(), rewards, over, dict.fromkeys(over, False), infos


parallel_env = Duel
