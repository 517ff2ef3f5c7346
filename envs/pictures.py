"""What environments draw, as films take it."""

from __future__ import annotations

import math
import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np

from machina.types import Array

MOST_FPS = 240.0
"""Pictures per second that are believed; some environments state a rate of the simulator, not of what is watched."""


def as_picture(drawn: Any) -> Array | None:
    """What ``render`` returned as ``[H, W, 3]`` uint8; None where it is not a picture.

    Of a list of pictures the newest counts. Taken are one channel (grey), three, and four (the last is opacity, which
    is left out), with the channels last or first; truth values; floating-point numbers from 0 to 1, or to 255 where
    any is larger than 2: resampling goes a little beyond 1.
    """
    if isinstance(drawn, (list, tuple)) and drawn:
        drawn = drawn[-1]
    if not isinstance(drawn, np.ndarray) or drawn.ndim not in (2, 3) or drawn.size == 0:
        return None
    picture = drawn[..., None] if drawn.ndim == 2 else drawn
    if picture.shape[2] not in (1, 3, 4) and picture.shape[0] in (1, 3, 4):
        picture = np.moveaxis(picture, 0, -1)
    if picture.shape[2] not in (1, 3, 4) or not (picture.dtype == np.bool_ or np.issubdtype(picture.dtype, np.number)):
        return None
    colours = picture[..., :3] if picture.shape[2] > 1 else picture.repeat(3, axis=2)
    return np.ascontiguousarray(_bytes(colours))


def _bytes(colours: Array) -> Array:
    if colours.dtype == np.uint8:
        return colours
    if colours.dtype == np.bool_:
        return colours * np.uint8(255)
    if np.issubdtype(colours.dtype, np.floating):
        colours = np.nan_to_num(colours)
        colours = (colours if colours.max() > 2 else colours * 255).round()
    return colours.clip(0, 255).astype(np.uint8)


def stated_fps(metadata: Mapping[str, Any] | None) -> float | None:
    """The pictures per second that an environment's ``metadata`` states as ``render_fps``; None without any."""
    try:
        fps = float((metadata or {}).get("render_fps") or 0)
    except (TypeError, ValueError):
        return None
    return min(fps, MOST_FPS) if math.isfinite(fps) and fps > 0 else None


def draw_without_display() -> None:
    """MuJoCo draws by EGL where there is no display; else it takes GLFW, which needs one.

    Called before the environment's module is imported, since dm_control chooses then. What the user set in
    ``MUJOCO_GL`` stays.
    """
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("MUJOCO_GL", "egl")


def remedy_for_opengl(error: BaseException) -> str:
    """What helps where drawing failed in OpenGL; empty for other errors."""
    modules = {str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)}
    if not any(name.startswith(("OpenGL", "mujoco.", "glfw")) or "mujoco_rendering" in name for name in modules):
        return ""
    chosen = os.environ.get("MUJOCO_GL", "not set")
    return f"; MUJOCO_GL is {chosen}: set it to what this machine can draw with: egl, osmesa, or with a display glfw"
