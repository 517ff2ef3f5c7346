"""An environment that notes which threads use it."""

from __future__ import annotations

import threading
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

users: dict[str, set[int]] = {"step": set(), "render": set()}
"""Threads of each call."""


class Drawing(gymnasium.Env[Any, Any]):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed, options=options)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:  # noqa: ARG002
        users["step"].add(threading.get_ident())
        return np.zeros(1, np.float32), 1.0, False, False, {}

    def render(self) -> Any:
        users["render"].add(threading.get_ident())
        return np.full((4, 6, 3), 200, np.uint8)


gymnasium.register("Drawing-v0", "drawing_env:Drawing")
