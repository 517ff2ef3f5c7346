"""How large a network would be, without the memory that it takes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from machina.nets.config import NetworkConfig
from machina.nets.register import build_network
from machina.specs import EnvSpec


class NetworkSize(NamedTuple):
    """What a network of ours holds."""

    parameters: int
    core_state: int
    """Numbers of one slot's."""
    convolved: int
    """Numbers that the convolutions of the options answer for one entry; 0 where these are not used."""


def network_size(spec: EnvSpec, config: NetworkConfig) -> NetworkSize:
    """Build a network on PyTorch's device without storage.

    Raises:
        UserError: the network does not suit the environment.
    """
    with torch.device("meta"):
        network = build_network(spec, config, seed=0)
    parameters = sum(tensor.numel() for tensor in network.parameters())
    core_state = sum(math.prod(shape) for shape in network.core_state_shapes)
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    uses_options = any(layer.out_channels == config.filters[0] for layer in convolutions)
    return NetworkSize(parameters, core_state, _convolved(spec, config) if uses_options else 0)


def _convolved(spec: EnvSpec, config: NetworkConfig) -> int:
    """Of the smallest image; whichever axis its channels are, they are the fewest."""
    images = [sorted(array.shape)[1:] for array in spec.observation.values() if len(array.shape) == 3]
    if not images:
        return 0
    sides, numbers = min(images), 0
    for filters, kernel, stride in zip(config.filters, config.kernels, config.strides, strict=True):
        sides = [(side - kernel) // stride + 1 for side in sides]
        numbers += filters * math.prod(sides)
    return numbers
