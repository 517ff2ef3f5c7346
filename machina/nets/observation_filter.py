"""The observation filter: floats at mean 0 and deviation 1 over all data (arXiv 1912.06680, appendix E).

The network holds the filter as parameters that no optimizer trains, so that actors get it with the weights. The learner
alone counts, in float64: every step reaches it once, whichever actor made it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from machina.errors import UserError
from machina.nets.reading import UNITS
from machina.specs import EnvSpec

BOUND = 5.0
"""Filtered numbers are cut to [-5, 5] (arXiv 1912.06680, appendix E)."""


def filtered_shapes(spec: EnvSpec) -> dict[str, tuple[int, ...]]:
    """The float arrays and the shapes of their statistics: one for each element, for units one for each feature."""
    return {
        key: array.shape[1:] if key == UNITS and len(array.shape) == 2 else array.shape
        for key, array in spec.observation.items()
        if array.dtype == "float32"
    }


class ObservationFilter(nn.Module):
    """(x - mean) * scale, cut to [-5, 5], for every float array; bytes, integers and masks pass as they are.

    Mean 0 and scale 1 before any data.
    """

    def __init__(self, spec: EnvSpec) -> None:
        """Raises UserError when no array is of floats."""
        super().__init__()
        shapes = filtered_shapes(spec)
        if not shapes:
            kinds = {key: array.dtype for key, array in spec.observation.items()}
            raise UserError(f"observation_filter: needs an array of floats, {spec.name!r} gives {kinds}; leave it off")
        self.keys = tuple(shapes)
        # A list, because the names of observation arrays may hold anything and those of parameters may not.
        self.mean = nn.ParameterList([_constant(0.0, shape) for shape in shapes.values()])
        self.scale = nn.ParameterList([_constant(1.0, shape) for shape in shapes.values()])

    def forward(self, observation: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Arrays ``[T, B, ...]`` to arrays of the same shapes."""
        filtered = dict(observation)
        for key, mean, scale in zip(self.keys, self.mean, self.scale, strict=True):
            filtered[key] = ((observation[key] - mean) * scale).clamp(-BOUND, BOUND)
        return filtered


def _constant(value: float, shape: tuple[int, ...]) -> nn.Parameter:
    return nn.Parameter(torch.full(shape, value), requires_grad=False)
