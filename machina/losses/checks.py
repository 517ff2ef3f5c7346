"""Refusal of wrong shapes at the door of a loss."""

from __future__ import annotations

from torch import Tensor


def check_shapes(rank: int | None, **tensors: Tensor) -> None:
    """Require tensors of one shape and of the given rank; broadcasting hides mistakes in losses.

    Args:
        rank: None where any will do.
        tensors: by the names of the arguments.

    Raises:
        ValueError: naming the argument, its shape, and the shape expected.
    """
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if rank is not None and tensor.ndim != rank:
            raise ValueError(f"{name} must have rank {rank}, got shape {tuple(tensor.shape)}")
        if tensor.shape != first.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, but {first_name} has {tuple(first.shape)}")
