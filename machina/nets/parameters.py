"""A network's parameters as one flat vector, for publication, and as named tensors, for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from machina.errors import UserError


def flattened(network: nn.Module) -> Tensor:
    """A new float32 CPU vector of all parameters, in the order of ``network.parameters()``."""
    with torch.no_grad():
        return torch.cat([parameter.reshape(-1) for parameter in network.parameters()]).float().cpu()


@torch.no_grad()
def load_flat(network: nn.Module, flat: Tensor) -> None:
    """Copy ``flattened``'s vector into the network, whatever the formats and memory layouts of its parameters.

    Raises:
        ValueError: the vector belongs to another network.
    """
    parameters = list(network.parameters())
    sizes = [parameter.numel() for parameter in parameters]
    if flat.shape != (sum(sizes),):
        raise ValueError(f"parameters have shape {tuple(flat.shape)}, the network needs ({sum(sizes)},)")
    for parameter, values in zip(parameters, torch.split(flat, sizes), strict=True):
        parameter.copy_(values.view(parameter.shape))


@torch.no_grad()
def load_tensors(network: nn.Module, tensors: Mapping[str, Tensor], skip: tuple[str, ...] = ()) -> None:
    """Copy named tensors into the parameters, in place.

    Args:
        network: its parameters' names are the keys looked for; other keys are ignored.
        tensors: from a checkpoint.
        skip: prefixes of parameters that are left as they are.

    Raises:
        UserError: a parameter is absent or has another shape.
    """
    for name, parameter in network.named_parameters():
        if name.startswith(skip):
            continue
        if name not in tensors:
            raise UserError(f"checkpoint: parameter {name!r} is missing; the network's options must equal the run's")
        if tensors[name].shape != parameter.shape:
            raise UserError(
                f"checkpoint: parameter {name!r} has shape {tuple(tensors[name].shape)}, this network needs "
                f"{tuple(parameter.shape)}; network, actions and tasks must equal the run's"
            )
        parameter.copy_(tensors[name])
