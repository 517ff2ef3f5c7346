"""How a network reads an environment's observations: which arrays are images, in what layout, and in what units.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Literal, NamedTuple, TypeGuard

import numpy as np

from machina.errors import UserError
from machina.nets.config import ImageLayout, TorsoConfig
from machina.specs import ArraySpec, EnvSpec
from machina.types import ACTION_MASK, OBSERVATION

PRIVILEGED = "privileged"
"""The key of what only the value function may see."""

UNITS = "units"
"""The key of an array ``[units, features]`` float32, whose rows are a set: their order means nothing."""

UNITS_MASK = "units_mask"
"""The key of an array ``[units]`` bool that goes with it: False in the rows that hold no unit now."""

LARGEST_DIVISOR = 65_535
"""Of 16-bit pictures. Where bounds are wider, they say nothing of the numbers that come."""

SMALLEST_MATRIX = 8
"""Sides of a matrix that the deep net, with its three poolings, reads as an image when there are other arrays."""

Torso = Literal["units", "shallow", "deep", "mlp"]


class ImageShape(NamedTuple):
    """How an observation array is read as an image."""

    channels: int
    height: int
    width: int
    layout: Literal["HW", "CHW", "HWC", "SCHW", "SHWC"]
    """Order of its axes; those of a stack S become channels."""


class Reading(NamedTuple):
    """What a network does with every observation array but the action mask."""

    torso: Torso
    images: dict[str, ImageShape]
    """Arrays that are convolved."""
    others: dict[str, ArraySpec]
    """All others."""
    scales: dict[str, float]
    """By key, of all: what the numbers are multiplied by."""

    def describe(self, spec: EnvSpec) -> str:
        """One line for the user."""
        images = ", ".join(self._array(key, spec.observation[key], image.layout) for key, image in self.images.items())
        others = ", ".join(self._array(key, array) for key, array in self.others.items())
        if self.torso == "mlp":
            return f"mlp of {size_of(self.others):,} inputs: {others}"
        if self.torso == "units":
            return f"units: {others}"
        return f"{self.torso}: {images}" + (f"; joined with {others}" if others else "")

    def _array(self, key: str, array: ArraySpec, layout: str = "") -> str:
        shape = "x".join(map(str, array.shape)) or "1"
        notes = [layout] if layout else []
        if array.choices:
            notes.append("one-hot")
        if self.scales[key] != 1:
            notes.append(f"divided by {1 / self.scales[key]:g}")
        return f"{key} {shape}" + (f" ({', '.join(notes)})" if notes else "")


def read(spec: EnvSpec, config: TorsoConfig) -> Reading:
    """How the networks of ``machina.nets`` read an environment.

    Raises:
        UserError: the torso or the layout asked for does not suit the observation.
    """
    if PRIVILEGED in spec.observation:
        raise UserError(f"environment {spec.name!r}: the observation key {PRIVILEGED!r} is not supported yet")
    # No network reads the mask; only actions are restricted by it.
    arrays = {key: array for key, array in spec.observation.items() if key != ACTION_MASK}
    torso, images = _torso(spec, arrays, config)
    return Reading(
        torso,
        images,
        {key: array for key, array in arrays.items() if key not in images},
        {key: _scale(key, array, config) for key, array in arrays.items()},
    )


def is_units(array: ArraySpec | None) -> TypeGuard[ArraySpec]:
    """Whether an array may hold a set of units."""
    return array is not None and len(array.shape) == 2 and array.dtype == "float32"


def size_of(arrays: Mapping[str, ArraySpec]) -> int:
    """How many numbers they hold."""
    return sum(prod(array.shape) for array in arrays.values())


def sizes_after_convolutions(image: ImageShape, config: TorsoConfig) -> list[tuple[int, int]]:
    """Height and width after each of the shallow net's convolutions; none for an image that is too small for them."""
    height, width = image.height, image.width
    sizes = []
    for kernel, stride in zip(config.kernels, config.strides, strict=True):
        if min(height, width) < kernel:
            return []
        height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        sizes.append((height, width))
    return sizes


def image_shape(shape: Sequence[int], layout: ImageLayout = "auto") -> ImageShape | None:
    """An array of two to four axes as an image: ``[H, W]``, with channels, and a stack before them.

    Where the layout is not given: of three axes two equal neighbours are height and width, as on square boards, however
    many layers they have. Else the axis of the channels is the last one if that is the shortest, else the first.
    """
    if len(shape) == 2:
        return ImageShape(1, shape[0], shape[1], "HW")
    if len(shape) not in (3, 4):
        return None
    first, middle, last = shape[-3:]
    if layout == "auto":
        if (first == middle) != (middle == last):
            layout = "HWC" if first == middle else "CHW"
        else:
            layout = "HWC" if last < min(first, middle) or first == middle == last else "CHW"
    stack = shape[0] if len(shape) == 4 else 1
    if layout == "HWC":
        return ImageShape(stack * last, first, middle, "SHWC" if len(shape) == 4 else "HWC")
    return ImageShape(stack * first, middle, last, "SCHW" if len(shape) == 4 else "CHW")


def _torso(spec: EnvSpec, arrays: Mapping[str, ArraySpec], config: TorsoConfig) -> tuple[Torso, dict[str, ImageShape]]:
    if config.torso in ("mlp", "units") or (config.torso == "auto" and is_units(arrays.get(UNITS))):
        return "mlp" if config.torso == "mlp" else "units", {}
    candidates = _candidates(spec, arrays, config.image_layout)
    if config.torso == "deep":
        images = {key: image for key, image in candidates.items() if len(arrays) == 1 or _is_deep(image)}
    else:
        images = {key: image for key, image in candidates.items() if sizes_after_convolutions(image, config)}
    if images:
        return "deep" if config.torso == "deep" else "shallow", images
    if config.torso == "auto":
        return "mlp", {}
    if candidates and config.torso == "shallow":
        largest = max(candidates.values(), key=lambda image: image.height * image.width)
        raise UserError(
            f"torso shallow: kernels {config.kernels} with strides {config.strides} don't fit an image of "
            f"{largest.height}x{largest.width} pixels; choose smaller kernels or --torso mlp"
        )
    shapes = {key: array.shape for key, array in arrays.items()}
    raise UserError(f"torso {config.torso}: needs an image, {spec.name!r} gives {shapes}; choose --torso mlp")


def _candidates(spec: EnvSpec, arrays: Mapping[str, ArraySpec], layout: ImageLayout) -> dict[str, ImageShape]:
    """The arrays that have the axes of an image."""
    if spec.stores_frames_once and layout == "HWC":
        raise UserError(f"image_layout=HWC: {spec.name!r} gives stacks of frames, [stack, H, W]; leave it out")
    candidates = {}
    for key, array in arrays.items():
        of_frames = spec.stores_frames_once and key == OBSERVATION
        image = image_shape(array.shape, "CHW" if of_frames else layout)
        if image is not None:
            candidates[key] = image
    return candidates


def _is_deep(image: ImageShape) -> bool:
    return image.layout != "HW" or min(image.height, image.width) >= SMALLEST_MATRIX


def _scale(key: str, array: ArraySpec, config: TorsoConfig) -> float:
    """Bytes, and whatever has the axes of an image, are brought within -1 and 1; other numbers stay as they are."""
    is_float = array.dtype == "float32"
    if key == UNITS or (is_float and config.observation_filter):  # the filter has given floats a scale of their own
        return 1.0
    if array.dtype != "uint8" and len(array.shape) < 2:
        return 1.0
    if config.observation_divisor is not None:
        return 1.0 if array.dtype == "bool" else 1 / config.observation_divisor
    low, high = array.low, array.high
    if np.issubdtype(array.dtype, np.unsignedinteger):  # pictures and depths fill their dtype, signed boards do not
        low, high = low or 0.0, np.iinfo(array.dtype).max if high is None else high
    if low is None or high is None:
        return 1.0
    largest = max(abs(low), abs(high))
    return 1 / largest if 1 < largest <= LARGEST_DIVISOR else 1.0
