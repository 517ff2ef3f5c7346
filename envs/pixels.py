"""Environments seen as pictures: what they draw, grey, 84 x 84, the last four together, as Atari's are."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec as GymnasiumSpec

from machina.envs.pictures import as_picture
from machina.errors import UserError
from machina.types import Array, FloatArray

SIZE = 84
STACK = 4
"""Frames that are seen together; both as for Atari (Nature 518, 529)."""

GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in their brightness (ITU-R BT.601), as Atari's emulator has them."""


class Pictures(gymnasium.ObservationWrapper[Any, Any, Any]):
    """A single environment whose observation is what it draws: ``[4, 84, 84]`` uint8, the newest picture last.

    Before the first picture of an episode the stack holds zeros.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], name: str) -> None:
        super().__init__(env)
        self._name = name
        self._stack = np.zeros((STACK, SIZE, SIZE), np.uint8)
        self.observation_space = spaces.Box(0, 255, self._stack.shape, np.uint8)

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self._stack[...] = 0
        return super().reset(**options)

    def observation(self, observation: Any) -> Array:  # noqa: ARG002 (the picture takes its place)
        """The stack with the present picture."""
        picture = as_picture(self.env.render())
        if picture is None:
            raise UserError(f"environment {self._name!r}: observe=pixels, but render returns no picture; use state")
        self._stack[:-1] = self._stack[1:]
        self._stack[-1] = small_and_grey(picture)
        return self._stack.copy()


def spec_of_pictures(spec: GymnasiumSpec, name: str) -> GymnasiumSpec:
    """That of the environment in ``Pictures``."""
    return GymnasiumSpec(
        spec.id, entry_point=functools.partial(_make, spec, name), order_enforce=False, disable_env_checker=True
    )


def _make(spec: GymnasiumSpec, name: str, **options: Any) -> Pictures:
    """Raises UserError where the environment draws no pictures."""
    env = gymnasium.make(spec, **{**options, "render_mode": "rgb_array"})
    if env.render_mode != "rgb_array":
        env.close()
        raise UserError(f"environment {name!r}: observe=pixels needs render_mode 'rgb_array'; use --observe state")
    return Pictures(env, name)


def small_and_grey(picture: Array) -> Array:
    """``[H, W, 3]`` uint8 as ``[84, 84]`` uint8: every place is the mean of the area that it covers."""
    grey: FloatArray = picture.astype(np.float32) @ GREY
    height, width = grey.shape
    small = _areas(height) @ grey @ _areas(width).T
    return (small + 0.5).astype(np.uint8)


@functools.cache
def _areas(length: int) -> FloatArray:
    """``[84, length]``: the share of every pixel in each place."""
    edges = np.linspace(0, length, SIZE + 1)
    pixels = np.arange(length)
    overlaps = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.asarray(overlaps.clip(min=0) * SIZE / length, np.float32)
