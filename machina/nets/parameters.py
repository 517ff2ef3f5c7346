"""A network's parameters as one flat vector, for publication, and as named tensors, for checkpoints."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

import torch
from torch import Tensor, nn

from machina.errors import UserError

POPART = "popart."
FILTER = "filter."
"""Prefixes of what a checkpoint's "model" holds besides parameters: the statistics that the learner keeps."""

_REMEDY = "network, actions and tasks must equal the run's"


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
        UserError: a parameter is absent, has another shape, or is of numbers of another kind.
    """
    for name, parameter in network.named_parameters():
        if name.startswith(skip):
            continue
        if name not in tensors:
            raise UserError(f"checkpoint: parameter {name!r} is missing; {_REMEDY}")
        check_shape(f"parameter {name!r}", tensors[name], parameter)
        if tensors[name].is_floating_point() != parameter.is_floating_point():
            raise UserError(f"checkpoint: parameter {name!r} is {tensors[name].dtype}; use another checkpoint")
        parameter.copy_(tensors[name])


def check_shape(what: str, tensor: Tensor, like: Tensor) -> None:
    """Refuse a checkpoint's tensor of another network.

    Raises:
        UserError: another shape; calls the tensor ``what``.
    """
    if tensor.shape != like.shape:
        raise UserError(
            f"checkpoint: {what} has shape {tuple(tensor.shape)}, this network needs {tuple(like.shape)}; {_REMEDY}"
        )


def check_alike(what: str, tensor: Tensor, like: Tensor) -> None:
    """``check_shape``, and the same format of numbers.

    Raises:
        UserError: they differ.
    """
    check_shape(what, tensor, like)
    if tensor.dtype != like.dtype:
        raise UserError(
            f"checkpoint: {what} is {tensor.dtype}, this network needs {like.dtype}; use another checkpoint"
        )


def check_names(tensors: Iterable[str], known: Container[str], kept_apart: tuple[str, ...] = ()) -> None:
    """Refuse tensors that belong to something else.

    Args:
        tensors: their names.
        known: what the network has.
        kept_apart: prefixes that are somebody else's.

    Raises:
        UserError: one is unknown.
    """
    for name in tensors:
        if name not in known and not name.startswith(kept_apart):
            raise UserError(f"checkpoint: this network has nothing called {name!r}; {_REMEDY}")
