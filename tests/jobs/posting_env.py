"""A game of 20 steps that presses keys itself, at known steps, and notes what it was told to do and when."""

from __future__ import annotations

import threading
import time
from typing import Any

import gymnasium
import numpy as np
import pygame
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

LENGTH = 20
DOWN, UP = pygame.KEYDOWN, pygame.KEYUP


class Posting(gymnasium.Env[Any, Any]):
    """Three actions; the observation is the step and the episode."""

    observation_space = spaces.Box(0, 1000, (2,), np.float32)
    action_space = spaces.Discrete(3)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 200}  # noqa: RUF012 (as gymnasium declares it)
    render_mode = "rgb_array"

    plan: dict[tuple[int, int], list[tuple[float, int, int]]]
    """(Episode, step) to events, each after so many seconds: kind and key. Step 0 is the reset."""
    times: list[tuple[float, int]]
    """When each step came, and its action."""

    def __init__(self) -> None:
        self.episode, self.step_number = -1, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.episode, self.step_number = self.episode + 1, 0
        self._press()
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.step_number += 1
        self.times.append((time.monotonic(), int(action)))
        self._press()
        return self._observation(), 1.0, self.step_number == LENGTH, False, {}

    def render(self) -> Any:
        return np.full((12, 16, 3), self.step_number, np.uint8)

    def _press(self) -> None:
        for delay_s, kind, key in self.plan.get((self.episode, self.step_number), []):
            event = pygame.event.Event(kind, {"key": key} if kind in (DOWN, UP) else {})
            if delay_s:
                threading.Timer(delay_s, pygame.event.post, [event]).start()
            else:
                pygame.event.post(event)

    def _observation(self) -> Any:
        return np.array([self.step_number, self.episode], np.float32)


def make(num_slots: int) -> SyncVectorEnv[Any, Any]:
    """For ``register_environment``."""
    return SyncVectorEnv([Posting] * num_slots, autoreset_mode=AutoresetMode.NEXT_STEP)


def tap(key: int, after_s: float = 0.0) -> list[tuple[float, int, int]]:
    """A key goes down and up."""
    return [(after_s, DOWN, key), (after_s, UP, key)]
