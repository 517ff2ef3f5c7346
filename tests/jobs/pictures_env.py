"""Environments that draw the same picture in many forms: the left half red, the right half white, the top row black."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

FPS = 4
HEIGHT, WIDTH = 64, 96
PICTURES = ("rgb", "rgba", "fractions", "floats", "grey", "first", "list", "bools", "smaller", "larger", "wide")


def drawn(kind: str, step: int) -> Any:
    """The picture in the form that ``kind`` names; ``step`` is that of the episode."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[1:, : WIDTH // 2] = (255, 0, 0)
    image[1:, WIDTH // 2 :] = 255
    grey = image[..., 0].copy()
    grey[:, : WIDTH // 2] //= 2
    return {
        "rgb": image,
        "rgba": np.concatenate([image, np.full_like(image[..., :1], 255)], axis=-1),
        "fractions": image / 255,
        "floats": image.astype(np.float32),
        "grey": grey,
        "first": np.moveaxis(image, -1, 0),
        "list": [np.zeros_like(image), image],
        "bools": grey > 200,
        "smaller": image[: -8 * (step > 2)] if step > 2 else image,
        "larger": image.repeat(2, axis=0).repeat(2, axis=1) if step > 2 else image,
        "wide": image.repeat(3, axis=1) if step > 2 else image,
    }[kind]


class Pictured(gymnasium.Env[Any, Any]):
    """Six steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}  # noqa: RUF012

    def __init__(self, picture: str, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.render_mode = render_mode
        self._picture = picture

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed, options=options)
        self._step = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:  # noqa: ARG002
        self._step += 1
        return np.zeros(2, np.float32), 1.0, self._step == 6, False, {}

    def render(self) -> Any:
        return drawn(self._picture, self._step)


class PicturedGame(ParallelEnv):  # type: ignore[misc]
    """A game for one that draws fractions."""

    metadata = {"name": "pictured_v0", "render_modes": ["rgb_array"], "render_fps": FPS}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.possible_agents = ["agent_0", "agent_1"]
        self.render_mode = render_mode

    def observation_space(self, agent: str) -> Any:  # noqa: ARG002
        return spaces.Box(-1, 1, (2,), np.float32)

    def action_space(self, agent: str) -> Any:  # noqa: ARG002
        return spaces.Discrete(2)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:  # noqa: ARG002
        self.agents = list(self.possible_agents)
        return self._all(np.zeros(2, np.float32)), self._all({})

    def _all(self, value: Any) -> dict[str, Any]:
        return dict.fromkeys(self.possible_agents, value)

    def step(self, actions: dict[str, Any]) -> Any:  # noqa: ARG002
        self.agents = []
        return self._all(np.zeros(2, np.float32)), self._all(0.0), self._all(True), self._all(False), self._all({})

    def render(self) -> Any:
        return drawn("fractions", 0)


parallel_env = PicturedGame
for name in PICTURES:
    gymnasium.register(f"Film_{name}-v0", "pictures_env:Pictured", kwargs={"picture": name})
