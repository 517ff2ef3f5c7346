"""What the observation filter is made from: mean and deviation of all data. The learner alone counts, in float64."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor, nn

from machina.errors import UserError
from machina.nets.observation_filter import ObservationFilter, filtered_shapes
from machina.nets.parameters import check_alike
from machina.nets.reading import UNITS, UNITS_MASK
from machina.specs import EnvSpec

EPSILON = 1e-8
"""Added to the variance; the square of a deviation below which numbers count as constant."""


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
