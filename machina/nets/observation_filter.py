"""The observation filter: floats at mean 0 and deviation 1 over all data (arXiv 1912.06680, appendix E).

The network holds the filter as parameters that no optimiser trains, so that actors get it with the weights. The learner
alone counts, in float64: every step reaches it once, whichever actor made it.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor, nn

from machina.errors import UserError
from machina.nets.parameters import check_alike
from machina.nets.reading import UNITS, UNITS_MASK
from machina.specs import EnvSpec

BOUND = 5.0
"""Filtered numbers are cut to [-5, 5] (arXiv 1912.06680, appendix E)."""

EPSILON = 1e-8
"""Added to the variance; the square of a deviation below which numbers count as constant."""


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


class FilterStatistics:
    """Count, mean and sum of squared distances from it, of all data so far; float64, on the learner's device.

    Args:
        spec: of the environment; all its tasks and roles count together.
        device: where the data come from.
    """

    def __init__(self, spec: EnvSpec, device: torch.device) -> None:
        self._shapes = filtered_shapes(spec)
        self._count = {key: torch.zeros((), dtype=torch.float64, device=device) for key in self._shapes}
        self._mean = {
            key: torch.zeros(shape, dtype=torch.float64, device=device) for key, shape in self._shapes.items()
        }
        self._squares = {key: torch.zeros_like(mean) for key, mean in self._mean.items()}

    @property
    def num_sums(self) -> int:
        """Length of what ``sums`` returns."""
        return sum(1 + 2 * prod(shape) for shape in self._shapes.values())

    @torch.no_grad()
    def sums(self, observation: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """What ``update`` needs of some entries; add up those of several parts of a batch, or of several ranks.

        Distances are taken from the present mean, so that they stay exact far from 0. The sums are worthless after
        the next ``update``.

        Args:
            observation: ``[N, ...]`` each.
            mask: ``[N]`` bool, the entries that count; of units only those that their own mask shows.

        Returns:
            ``[num_sums]`` float64: of every array the count, the sums of distances and of their squares.
        """
        parts = []
        for key, shape in self._shapes.items():
            array, counted = observation[key], mask
            if key == UNITS and array.ndim == 3:
                present = observation.get(UNITS_MASK)
                counted = mask.unsqueeze(1).expand(array.shape[:2]) if present is None else mask.unsqueeze(1) & present
            counted = counted.reshape(-1)
            distances = array.reshape(-1, prod(shape)).to(torch.float64) - self._mean[key].reshape(-1)
            distances = torch.where(counted.unsqueeze(1), distances, 0.0)
            parts += [counted.sum(dtype=torch.float64)[None], distances.sum(dim=0), distances.square().sum(dim=0)]
        return torch.cat(parts)

    def update(self, sums: Tensor) -> None:
        """Merge ``sums``: as if all data had been seen in one pass (Chan, Golub and LeVeque 1979)."""
        sizes = [size for shape in self._shapes.values() for size in (1, prod(shape), prod(shape))]
        parts = iter(torch.split(sums, sizes))
        for key, shape in self._shapes.items():
            count, distances, squares = next(parts)[0], next(parts).reshape(shape), next(parts).reshape(shape)
            self._count[key] = self._count[key] + count
            # Distances from the old mean: both of Chan's corrections become one. Nothing happens where nothing came.
            shift = distances / self._count[key].clamp(min=1)
            self._mean[key] = self._mean[key] + shift
            self._squares[key] = (self._squares[key] + squares - distances * shift).clamp(min=0)

    @torch.no_grad()
    def write(self, network: nn.Module) -> None:
        """Have every filter of ``network`` use the statistics; before any data it stays as it started."""
        for module in network.modules():
            if isinstance(module, ObservationFilter):
                for key, mean, scale in zip(module.keys, module.mean, module.scale, strict=True):
                    seen = self._count[key] > 0
                    variance = self._squares[key] / self._count[key].clamp(min=1)
                    mean.copy_(self._mean[key])
                    scale.copy_(torch.where(seen, (variance + EPSILON).rsqrt(), 1.0))

    def state(self) -> dict[str, Tensor]:
        """Copies on the CPU, by kind and array: ``count.KEY``, ``mean.KEY``, ``squares.KEY``."""
        return {f"{kind}.{key}": tensor.cpu().clone() for kind, of in self._kinds() for key, tensor in of.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state``.

        Raises:
            UserError: it is of other observations, of a run without a filter, or no statistics at all.
        """
        for kind, tensors in self._kinds():
            for key, tensor in tensors.items():
                saved = state.get(f"{kind}.{key}")
                if saved is None or saved.shape != tensor.shape:
                    got = "none" if saved is None else f"shape {tuple(saved.shape)}"
                    raise UserError(
                        f"checkpoint: the observation filter needs {kind} of {key!r} of shape {tuple(tensor.shape)}, "
                        f"got {got}; observations and observation_filter must equal the run's"
                    )
                check_alike(f"the observation filter's {kind} of {key!r}", saved, tensor)
                if kind != "mean" and (saved < 0).any():
                    raise UserError(
                        f"checkpoint: the observation filter's {kind} of {key!r} is negative; use another checkpoint"
                    )
                tensors[key] = saved.to(tensor, copy=True)

    def _kinds(self) -> list[tuple[str, dict[str, Tensor]]]:
        return [("count", self._count), ("mean", self._mean), ("squares", self._squares)]


def _constant(value: float, shape: tuple[int, ...]) -> nn.Parameter:
    return nn.Parameter(torch.full(shape, value), requires_grad=False)
