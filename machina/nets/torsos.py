"""Torsos: from observations to a feature vector per entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from machina.errors import UserError
from machina.nets.config import TorsoConfig
from machina.nets.reading import (
    UNITS,
    UNITS_MASK,
    ImageShape,
    Reading,
    is_units,
    read,
    size_of,
    sizes_after_convolutions,
)
from machina.specs import ArraySpec, EnvSpec

DEEP_CHANNELS = (16, 32, 32)


class ImageConvolution(nn.Conv2d):
    """The convolution that reads the image: kernels lose their mean, and the image's scale is put into them.

    A kernel without mean returns 0 for a uniform background (the mean part of weight standardization, arXiv
    1903.10520). With plain kernels the background makes every feature a large constant, and the gradients of all
    weights of a kernel point the same way: on Pong Adam killed 11 to 15 of 16 filters (docs/results.md).
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


FLAT_SIZES = (128, 128)
"""Hidden layers where there is no image."""


def hidden_layers(
    inputs: int, sizes: Sequence[int], activation: type[nn.Module], config: TorsoConfig
) -> list[nn.Module]:
    """Fully connected layers, an activation after each, and layer normalization before it if that is asked for."""
    layers: list[nn.Module] = []
    for size in sizes:
        layers.append(nn.Linear(inputs, size))
        if config.layer_norm:
            layers.append(nn.LayerNorm(size))
        layers.append(activation())
        inputs = size
    return layers


def _image_norm(channels: int, config: TorsoConfig) -> list[nn.Module]:
    """Layer normalization of an image's features: over channels and places together, with a gain for each channel.

    A group of all channels is computed without rearranging the image in memory, which ``LayerNorm`` would do.
    """
    return [nn.GroupNorm(1, channels)] if config.layer_norm else []


def shallow_torso(image: ImageShape, config: TorsoConfig, scale: float) -> tuple[nn.Sequential, int]:
    """VALID convolutions and hidden layers with ReLU (the DQN torso); the module and its number of features."""
    size = sizes_after_convolutions(image, config)[-1]  # too small an image is none
    layers: list[nn.Module] = []
    channels = image.channels
    for index, (filters, kernel, stride) in enumerate(zip(config.filters, config.kernels, config.strides, strict=True)):
        if index == 0:
            layers.append(ImageConvolution(channels, filters, kernel, stride, 0, scale))
        else:
            layers.append(nn.Conv2d(channels, filters, kernel, stride))
        layers += [*_image_norm(filters, config), nn.ReLU(inplace=True)]
        channels = filters
    hidden_sizes = _hidden_sizes(config, (512,))
    flat = channels * prod(size)
    # Before the last ReLU: the gradient comes back with places innermost, and PyTorch's ReLU takes twelve times as long
    # when its two inputs lie differently in memory.
    layers.insert(-1, nn.Flatten())
    layers += hidden_layers(flat, hidden_sizes, nn.ReLU, config)
    return nn.Sequential(*layers), (hidden_sizes or (flat,))[-1]


def flat_torso(arrays: Mapping[str, ArraySpec], config: TorsoConfig) -> tuple[nn.Sequential, int]:
    """Hidden layers with tanh for all arrays flattened and joined; the module and its number of features."""
    sizes = _hidden_sizes(config, FLAT_SIZES)
    inputs = size_of(arrays)
    return nn.Sequential(*hidden_layers(inputs, sizes, nn.Tanh, config)), (sizes or (inputs,))[-1]


class ResidualBlock(nn.Module):
    """ReLU, conv 3x3, ReLU, conv 3x3, add; with layer normalization before each ReLU if that is asked for."""

    def __init__(self, channels: int, config: TorsoConfig) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.norms = nn.ModuleList([*_image_norm(channels, config), *_image_norm(channels, config)])

    def forward(self, images: Tensor) -> Tensor:
        """``[N, C, H, W]`` to the same shape."""
        if not self.norms:
            residual: Tensor = self.second(functional.relu(self.first(functional.relu(images))))
            return images + residual
        inner = self.first(functional.relu(self.norms[0](images)))
        residual = self.second(functional.relu(self.norms[1](inner)))
        return images + residual


def deep_torso(image: ImageShape, config: TorsoConfig, scale: float) -> tuple[nn.Sequential, int]:
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
        layers += [ResidualBlock(filters, config), ResidualBlock(filters, config)]
        channels, height, width = filters, -(-height // 2), -(-width // 2)
    hidden_sizes = _hidden_sizes(config, (256,))
    flat = channels * height * width
    layers += [
        *_image_norm(channels, config),
        nn.ReLU(),
        nn.Flatten(),
        *hidden_layers(flat, hidden_sizes, nn.ReLU, config),
    ]
    return nn.Sequential(*layers), (hidden_sizes or (flat,))[-1]


class UnitsTorso(nn.Module):
    """Sets of units as OpenAI Five reads them (arXiv 1912.06680, figure 17), then hidden layers.

    Every unit goes through the same two layers and the maximum is taken over units; in addition the other arrays, such
    as the controlled unit's own, go through a layer of theirs. ReLU throughout: where no unit is there, the maximum is
    0.
    """

    def __init__(
        self, name: str, arrays: Mapping[str, ArraySpec], scales: Mapping[str, float], config: TorsoConfig
    ) -> None:
        """Raises UserError, which names environment ``name``, when there are no units or their mask does not fit."""
        super().__init__()
        units, mask = arrays.get(UNITS), arrays.get(UNITS_MASK)
        if not is_units(units):
            shapes = {key: f"{array.dtype} {array.shape}" for key, array in arrays.items()}
            raise UserError(
                f"torso units: needs an array {UNITS!r} of floats [units, features], {name!r} gives {shapes}; choose "
                "--torso mlp"
            )
        if mask is not None and not mask.holds(units.shape[:1], "bool"):
            raise UserError(
                f"environment {name!r}: {UNITS_MASK} must be bool {units.shape[:1]}, got {mask.dtype} {mask.shape}"
            )
        others = {key: array for key, array in arrays.items() if key not in (UNITS, UNITS_MASK)}
        self.masked = mask is not None
        self.scales = {key: scales[key] for key in others}
        sizes = _hidden_sizes(config, FLAT_SIZES)
        width = (sizes or (128,))[0]
        self.embedding = nn.Sequential(*hidden_layers(units.shape[1], (width, width), nn.ReLU, config))
        self.others = nn.Sequential(*hidden_layers(size_of(others), (width,), nn.ReLU, config)) if others else None
        joined = 2 * width if others else width
        self.hidden = nn.Sequential(*hidden_layers(joined, sizes, nn.ReLU, config))
        self.output_size = (sizes or (joined,))[-1]

    def forward(self, arrays: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Arrays ``[N, ...]`` to ``[N, output_size]``."""
        embedded: Tensor = self.embedding(arrays[UNITS].to(dtype))
        if self.masked:
            embedded = embedded.masked_fill(~arrays[UNITS_MASK].unsqueeze(-1), 0)
        features = embedded.amax(dim=1)
        if self.others is not None:
            features = torch.cat([features, self.others(_joined(arrays, self.scales, dtype))], dim=1)
        hidden: Tensor = self.hidden(features)
        return hidden


class JoinedTorso(nn.Module):
    """Several images, or images and other arrays: each image as if it were alone, the others through a hidden layer.

    What comes of them goes through one more hidden layer together. ReLU throughout.
    """

    def __init__(self, reading: Reading, config: TorsoConfig) -> None:
        super().__init__()
        build = image_torso(reading.torso)
        parts = {key: build(image, config, reading.scales[key]) for key, image in reading.images.items()}
        self.layouts = {key: image.layout for key, image in reading.images.items()}
        self.scales = {key: reading.scales[key] for key in reading.others}
        # A list, because the names of observation arrays may hold anything and those of modules may not.
        self.images = nn.ModuleList([torso for torso, _ in parts.values()])
        widths = [features for _, features in parts.values()]
        sizes = _hidden_sizes(config, (512,) if reading.torso == "shallow" else (256,))
        self.others = nn.Sequential()
        if reading.others:
            inputs = size_of(reading.others)
            self.others = nn.Sequential(*hidden_layers(inputs, sizes[:1], nn.ReLU, config))
            widths.append((sizes or (inputs,))[0])
        self.hidden = nn.Sequential(*hidden_layers(sum(widths), sizes[-1:], nn.ReLU, config))
        self.output_size = (sizes or (sum(widths),))[-1]

    def forward(self, arrays: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Arrays ``[N, ...]`` to ``[N, output_size]``."""
        features = [
            torso(_channels_last(_channels_first(arrays[key], layout)).to(dtype))
            for torso, (key, layout) in zip(self.images, self.layouts.items(), strict=True)
        ]
        if self.scales:
            features.append(self.others(_joined(arrays, self.scales, dtype)))
        hidden: Tensor = self.hidden(torch.cat(features, dim=1))
        return hidden


def image_torso(torso: str) -> Callable[[ImageShape, TorsoConfig, float], tuple[nn.Sequential, int]]:
    """What builds the torso of an image: from its shape, the options and a scale to a module and its features."""
    return shallow_torso if torso == "shallow" else deep_torso


class Encoder(nn.Module):
    """Observations of N entries to ``[N, output_size]`` features, by the torso that suits them (``Reading``)."""

    def __init__(self, spec: EnvSpec, config: TorsoConfig) -> None:
        """Raises UserError when the torso asked for does not suit the observation."""
        super().__init__()
        reading = read(spec, config)
        self.scales = reading.scales
        self.image: tuple[str, str] | None = None
        """Key and layout, where the observation is an image and nothing else."""
        self.torso: nn.Module
        if reading.torso == "mlp":
            self.torso, self.output_size = flat_torso(reading.others, config)
        elif reading.torso == "units":
            self.torso = units = UnitsTorso(spec.name, reading.others, reading.scales, config)
            self.output_size = units.output_size
        elif len(reading.images) == 1 and not reading.others:
            ((key, image),) = reading.images.items()
            self.image = key, image.layout
            self.torso, self.output_size = image_torso(reading.torso)(image, config, reading.scales[key])
        else:
            self.torso = joined = JoinedTorso(reading, config)
            self.output_size = joined.output_size
        self.joins = isinstance(self.torso, UnitsTorso | JoinedTorso)
        """Whether the torso takes the arrays one by one; asked for in every step, so kept."""

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Arrays ``[T, B, ...]`` to ``[T * B, output_size]``."""
        dtype = self._compute_dtype(observation)
        features: Tensor
        if self.image is not None:
            key, layout = self.image
            images = _channels_first(observation[key].flatten(0, 1), layout)
            features = self.torso(_channels_last(images).to(dtype))
            return features
        arrays = {key: observation[key].flatten(0, 1) for key in self.scales}
        features = self.torso(arrays, dtype) if self.joins else self.torso(_joined(arrays, self.scales, dtype))
        return features

    def _compute_dtype(self, observation: Mapping[str, Tensor]) -> torch.dtype:
        """Convert bytes straight into the format of the convolutions, not by way of float32."""
        device = next(iter(observation.values())).device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32


def _channels_first(images: Tensor, layout: str) -> Tensor:
    """``[N, *axes]`` in one of the layouts of ``ImageShape`` to ``[N, C, H, W]``."""
    if layout == "HW":
        return images.unsqueeze(1)
    if layout.endswith("HWC"):
        images = images.movedim(-1, -3)
    return images.flatten(1, 2) if layout.startswith("S") else images


def _channels_last(images: Tensor) -> Tensor:
    """``[N, C, H, W]`` with channels innermost in memory; bytes are rearranged, floats would be four times as many.

    Stacking is twice as fast as ``Tensor.contiguous(memory_format=...)`` (measured with 4 channels).
    """
    if images.is_contiguous(memory_format=torch.channels_last):
        return images
    return torch.stack(images.unbind(1), dim=-1).permute(0, 3, 1, 2)


def hidden_sizes(torso: str, config: TorsoConfig) -> tuple[int, ...]:
    """Of the hidden layers that a torso has."""
    return _hidden_sizes(config, {"shallow": (512,), "deep": (256,)}.get(torso, FLAT_SIZES))


def _hidden_sizes(config: TorsoConfig, default: tuple[int, ...]) -> tuple[int, ...]:
    return default if config.hidden_sizes is None else config.hidden_sizes


def _joined(arrays: Mapping[str, Tensor], scales: Mapping[str, float], dtype: torch.dtype) -> Tensor:
    """The arrays named in ``scales``, ``[N, ...]`` each, as one ``[N, numbers]``."""
    rows = {key: arrays[key].flatten(1) if arrays[key].ndim > 1 else arrays[key].unsqueeze(1) for key in scales}
    return torch.cat([rows[key].to(dtype) * scale for key, scale in scales.items()], dim=1)
