"""Torsos: from observations to a feature vector per entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from machina.errors import UserError
from machina.nets.config import NetworkConfig
from machina.specs import ArraySpec, EnvSpec
from machina.types import OBSERVATION

RESERVED_KEYS = ("privileged", "action_mask")
DEEP_CHANNELS = (16, 32, 32)


class ImageShape(NamedTuple):
    """How an observation array is read as an image."""

    channels: int
    height: int
    width: int
    layout: Literal["HW", "CHW", "HWC"]


def image_shape(spec: EnvSpec) -> ImageShape | None:
    """The observation as an image, or None when it is not one array of two or three axes."""
    if set(spec.observation) != {OBSERVATION}:
        return None
    shape = spec.observation[OBSERVATION].shape
    if len(shape) == 2:
        return ImageShape(1, *shape, "HW")
    if len(shape) != 3:
        return None
    if not spec.stores_frames_once and shape[2] <= 4 < shape[0]:
        return ImageShape(shape[2], shape[0], shape[1], "HWC")
    return ImageShape(*shape, "CHW")


class ImageConvolution(nn.Conv2d):
    """The convolution that reads the image: kernels lose their mean, and the image's scale is put into them.

    A kernel without mean answers 0 to a uniform background (the mean part of weight standardisation, arXiv 1903.10520).
    With plain kernels the background makes every feature a large constant, and the gradients of all weights of a
    kernel point the same way: on Pong Adam killed 11 to 15 of 16 filters (docs/results.md).
    Scaling the small kernel instead of the image saves a pass over the largest tensor of the network, and 0..255
    are exact in bfloat16 while their 255th parts are not.
    """

    def __init__(self, channels: int, filters: int, kernel: int, stride: int, padding: int, scale: float) -> None:
        super().__init__(channels, filters, kernel, stride, padding)
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N, filters, H', W']``."""
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return functional.conv2d(images, weight * self.scale, self.bias, self.stride, self.padding)


def hidden_layers(inputs: int, sizes: Sequence[int], activation: type[nn.Module]) -> list[nn.Module]:
    """Fully connected layers, an activation after each."""
    layers: list[nn.Module] = []
    for size in sizes:
        layers += [nn.Linear(inputs, size), activation()]
        inputs = size
    return layers


def shallow_torso(image: ImageShape, config: NetworkConfig, scale: float) -> tuple[nn.Sequential, int]:
    """VALID convolutions and hidden layers with ReLU (the DQN torso); the module and its number of features.

    Raises:
        UserError: the image is smaller than the convolutions need.
    """
    size = _size_after_convolutions(image, config)
    if size is None:
        raise UserError(
            f"torso shallow: kernels {config.kernels} with strides {config.strides} don't fit an image of "
            f"{image.height}x{image.width} pixels; choose smaller kernels or --torso mlp"
        )
    layers: list[nn.Module] = []
    channels = image.channels
    for index, (filters, kernel, stride) in enumerate(zip(config.filters, config.kernels, config.strides, strict=True)):
        if index == 0:
            layers.append(ImageConvolution(channels, filters, kernel, stride, 0, scale))
        else:
            layers.append(nn.Conv2d(channels, filters, kernel, stride))
        layers.append(nn.ReLU(inplace=True))
        channels = filters
    hidden_sizes = (512,) if config.hidden_sizes is None else config.hidden_sizes
    flat = channels * prod(size)
    layers += [nn.Flatten(), *hidden_layers(flat, hidden_sizes, nn.ReLU)]
    return nn.Sequential(*layers), (hidden_sizes or (flat,))[-1]


class ResidualBlock(nn.Module):
    """ReLU, conv 3x3, ReLU, conv 3x3, add."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """``[N, C, H, W]`` to the same shape."""
        inner = self.first(functional.relu(images))
        residual: Tensor = self.second(functional.relu(inner))
        return images + residual


def deep_torso(image: ImageShape, config: NetworkConfig, scale: float) -> tuple[nn.Sequential, int]:
    """IMPALA's residual net (figure 3, right): three sections of conv, pool and two residual blocks, then 256 units.

    Convolutions and pools are SAME as in TensorFlow. An even side is padded on its far end only, which is what
    ``ceil_mode`` does, an odd one on both ends.
    """
    layers: list[nn.Module] = []
    channels, height, width = image.channels, image.height, image.width
    for index, filters in enumerate(DEEP_CHANNELS):
        if index == 0:
            layers.append(ImageConvolution(channels, filters, 3, 1, 1, scale))
        else:
            layers.append(nn.Conv2d(channels, filters, 3, padding=1))
        layers.append(nn.MaxPool2d(3, stride=2, padding=(height % 2, width % 2), ceil_mode=True))
        layers += [ResidualBlock(filters), ResidualBlock(filters)]
        channels, height, width = filters, -(-height // 2), -(-width // 2)
    hidden_sizes = (256,) if config.hidden_sizes is None else config.hidden_sizes
    flat = channels * height * width
    layers += [nn.ReLU(), nn.Flatten(), *hidden_layers(flat, hidden_sizes, nn.ReLU)]
    return nn.Sequential(*layers), (hidden_sizes or (flat,))[-1]


class Encoder(nn.Module):
    """Observations of N entries to ``[N, output_size]`` features, by the torso that suits them.

    uint8 arrays are read as bytes and scaled to [0, 1]; other arrays are taken as they are.
    """

    def __init__(self, spec: EnvSpec, config: NetworkConfig) -> None:
        """Raises UserError when the torso asked for does not suit the observation."""
        super().__init__()
        for key in RESERVED_KEYS:
            if key in spec.observation:
                raise UserError(f"environment {spec.name!r}: the observation key {key!r} is not supported yet")
        image = image_shape(spec)
        kind = config.torso
        if kind == "auto":
            fits = image is not None and _size_after_convolutions(image, config) is not None
            kind = "shallow" if fits else "mlp"
        self.image: ImageShape | None = None
        if kind == "mlp":
            self.scales = {key: _scale(array) for key, array in spec.observation.items()}
            sizes = (128, 128) if config.hidden_sizes is None else config.hidden_sizes
            inputs = sum(prod(array.shape) for array in spec.observation.values())
            self.torso = nn.Sequential(*hidden_layers(inputs, sizes, nn.Tanh))
            self.output_size = (sizes or (inputs,))[-1]
            return
        if image is None:
            shapes = {key: array.shape for key, array in spec.observation.items()}
            raise UserError(f"torso {kind}: needs one image, {spec.name!r} gives {shapes}; choose --torso mlp")
        build = shallow_torso if kind == "shallow" else deep_torso
        self.image = image
        self.torso, self.output_size = build(image, config, _scale(spec.observation[OBSERVATION]))

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Arrays ``[T, B, ...]`` to ``[T * B, output_size]``."""
        dtype = self._compute_dtype(observation)
        features: Tensor
        if self.image is None:
            parts = [observation[key].flatten(0, 1).flatten(1).to(dtype) * self.scales[key] for key in self.scales]
            features = self.torso(torch.cat(parts, dim=1))
            return features
        images = observation[OBSERVATION].flatten(0, 1)
        if self.image.layout == "HW":
            images = images.unsqueeze(1)
        elif self.image.layout == "HWC":
            images = images.permute(0, 3, 1, 2)
        features = self.torso(_channels_last(images).to(dtype))
        return features

    def _compute_dtype(self, observation: Mapping[str, Tensor]) -> torch.dtype:
        """Convert bytes straight into the format of the convolutions, not by way of float32."""
        device = next(iter(observation.values())).device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32


def _channels_last(images: Tensor) -> Tensor:
    """``[N, C, H, W]`` with channels innermost in memory; bytes are rearranged, floats would be four times as many.

    Stacking is twice as fast as ``Tensor.contiguous(memory_format=...)`` (measured with 4 channels).
    """
    if images.is_contiguous(memory_format=torch.channels_last):
        return images
    return torch.stack(images.unbind(1), dim=-1).permute(0, 3, 1, 2)


def _scale(array: ArraySpec) -> float:
    return 1 / 255 if array.dtype == "uint8" else 1.0


def _size_after_convolutions(image: ImageShape, config: NetworkConfig) -> tuple[int, int] | None:
    height, width = image.height, image.width
    for kernel, stride in zip(config.kernels, config.strides, strict=True):
        if min(height, width) < kernel:
            return None
        height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
    return height, width
