"""Environments seen as pictures: what they draw, grey, 84 x 84, the last four together, as Atari's are."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec as GymnasiumSpec

from machina.envs.pictures import as_picture
from machina.errors import RAISED, UserError
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
    refusal = UserError(f"environment {name!r}: observe=pixels needs render_mode 'rgb_array'; use --observe state")
    try:
        env = gymnasium.make(spec, **{**options, "render_mode": "rgb_array"})
    except RAISED as error:
        if _declares_pictures(gymnasium.make(spec)):
            raise
        raise refusal from error
    if env.render_mode != "rgb_array" or "rgb_array" not in _render_modes(env):
        env.close()
        raise refusal
    return Pictures(env, name)


def _declares_pictures(env: gymnasium.Env[Any, Any]) -> bool:
    env.close()
    return "rgb_array" in _render_modes(env)


def _render_modes(env: gymnasium.Env[Any, Any]) -> Sequence[str]:
    return env.metadata.get("render_modes") or ()


def small_and_grey(picture: Array) -> Array:
    """``[H, W, 3]`` uint8 as ``[84, 84]`` uint8: every place is the mean of the area that it covers.

    Without products of matrices, whose threads would be as many in every worker process and wait for one another.
    """
    grey: FloatArray = picture[..., 0] * GREY[0] + picture[..., 1] * GREY[1] + picture[..., 2] * GREY[2]
    small = _means(_means(grey).T).T
    return (small + 0.5).astype(np.uint8)


def _means(lines: FloatArray) -> FloatArray:
    """``[L, N]`` as ``[84, N]``: the mean of each 84th of the lines; a line that an edge cuts counts by its shares."""
    first, cut = np.divmod(np.arange(SIZE) * len(lines), SIZE)
    sums = np.add.reduceat(lines, first, axis=0)
    # An area that begins and ends in one line: reduceat takes that line whole, the shares below are all of it.
    sums[:-1][first[:-1] == first[1:]] = 0
    before = lines[first] * (cut / SIZE).astype(np.float32)[:, None]
    sums -= before
    sums[:-1] += before[1:]
    return np.asarray(sums * np.float32(SIZE / len(lines)), np.float32)
