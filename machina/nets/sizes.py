"""How large a network would be, without the memory that it takes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from machina.nets.build import network_for
from machina.nets.config import TorsoConfig
from machina.nets.reading import read, sizes_after_convolutions
from machina.specs import EnvSpec


class NetworkSize(NamedTuple):
    """What a network of ours holds."""

    parameters: int
    core_state: int
    """Numbers of one slot's."""
    convolved: int
    """Numbers that the shallow net's convolutions return for one entry; 0 for other torsos."""


def network_size(spec: EnvSpec, config: TorsoConfig) -> NetworkSize:
    """Build a network on PyTorch's device without storage.

    Raises:
        UserError: the network does not suit the environment.
    """
    with torch.device("meta"):
        network = network_for(spec, config, seed=0)
    parameters = sum(tensor.numel() for tensor in network.parameters())
    core_state = sum(math.prod(shape) for shape in network.core_state_shapes)
    return NetworkSize(parameters, core_state, _convolved(spec, config))


def _convolved(spec: EnvSpec, config: TorsoConfig) -> int:
    reading = read(spec, config)
    if reading.torso != "shallow":
        return 0
    return sum(
        filters * height * width
        for image in reading.images.values()
        for filters, (height, width) in zip(config.filters, sizes_after_convolutions(image, config), strict=True)
    )
