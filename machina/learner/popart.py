"""PopArt: value targets of every task at unit scale, outputs preserved (arXiv 1602.07714, multi-task 1809.04474)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from machina.errors import UserError
from machina.nets.parameters import check_shape


class PopArt:
    """Per-task mean ``mu``, second moment ``nu`` and scale ``sigma`` of the value targets.

    Start: mu = 0, nu = 1, sigma = 1. Statistics are float64, because sigma = sqrt(nu - mu^2) cancels badly at large
    scales. No gradient flows through them.
    """

    def __init__(
        self,
        num_tasks: int,
        beta: float = 3e-4,
        sigma_min: float = 1e-4,
        sigma_max: float = 1e6,
        device: torch.device | str = "cpu",
    ) -> None:
        self.beta = beta
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self.mu = torch.zeros(num_tasks, dtype=torch.float64, device=device)
        self.nu = torch.ones(num_tasks, dtype=torch.float64, device=device)

    @property
    def sigma(self) -> Tensor:
        """``[num_tasks]`` float64: sqrt(nu - mu^2), bounded."""
        variance = (self.nu - self.mu.square()).clamp(min=0)
        return variance.sqrt().clamp(self.sigma_min, self.sigma_max)

    def unnormalized(self, values: Tensor, task_id: Tensor) -> Tensor:
        """``[T, B]``: normalized values of each slot's own task ``[B]`` in units of the rewards, float32."""
        return (self.sigma[task_id] * values + self.mu[task_id]).float()

    def normalized(self, targets: Tensor, task_id: Tensor) -> Tensor:
        """``[T, B]``: the inverse of ``unnormalized``."""
        return ((targets - self.mu[task_id]) / self.sigma[task_id]).float()

    def statistics(self, vs: Tensor, task_id: Tensor, mask: Tensor) -> Tensor:
        """Sums over a batch that ``update`` needs; add those of several parts of a batch, or of several ranks.

        Args:
            vs: ``[T, B]``, unnormalized targets.
            task_id: ``[B]`` int64.
            mask: ``[T, B]`` bool; an unroll without a single counted step is left out.

        Returns:
            ``[3, num_tasks]`` float64: number of unrolls, sum of their means, sum of their mean squares.
        """
        steps = mask.sum(dim=0)
        targets = torch.where(mask, vs, 0.0).to(torch.float64)
        means = targets.sum(dim=0) / steps.clamp(min=1)
        mean_squares = targets.square().sum(dim=0) / steps.clamp(min=1)
        rows = torch.stack([steps > 0, means, mean_squares])
        sums = torch.zeros(3, len(self.mu), dtype=torch.float64, device=rows.device)
        return sums.index_add_(1, task_id, rows)

    @torch.no_grad()
    def update(self, statistics: Tensor, value_head: nn.Linear) -> None:
        """Move the statistics and rescale the value head so that its unnormalized outputs stay.

        The paper applies ``beta`` once per unroll. k unrolls of a task in one batch are taken as one step of size
        1 - (1 - beta)^k towards their mean, so their order does not matter.

        Args:
            statistics: ``[3, num_tasks]``, from ``statistics``.
            value_head: its weight ``[num_tasks, features]`` and bias are changed in place; the optimizer sees these
                very tensors.
        """
        unrolls, means, mean_squares = statistics
        share = 1 - (1 - self.beta) ** unrolls
        per_unroll = unrolls.clamp(min=1)
        old_mu, old_sigma = self.mu, self.sigma
        self.mu = torch.lerp(self.mu, means / per_unroll, share)
        self.nu = torch.lerp(self.nu, mean_squares / per_unroll, share)
        rescale_head(value_head, old_mu, old_sigma, self.mu, self.sigma)

    def state(self) -> dict[str, Tensor]:
        """Copies of ``mu`` and ``nu`` on the CPU."""
        return {"mu": self.mu.cpu().clone(), "nu": self.nu.cpu().clone()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state``.

        Raises:
            UserError: it is of other tasks, or of a run without PopArt.
        """
        for name, own in (("mu", self.mu), ("nu", self.nu)):
            if name not in state:
                raise UserError(f"checkpoint: popart.{name} is missing; popart must equal the run's")
            check_shape(f"popart.{name}", state[name], own)
        self.mu = state["mu"].to(self.mu, copy=True)
        self.nu = state["nu"].to(self.nu, copy=True)


@torch.no_grad()
def rescale_head(head: nn.Linear, old_mu: Tensor, old_sigma: Tensor, mu: Tensor, sigma: Tensor) -> None:
    """Change a value head's rows in place so that sigma * head(x) + mu stays (1602.07714, proposition 1).

    w' = (old_sigma / sigma) w; b' = (old_sigma b + old_mu - mu) / sigma, computed in float64. All ``[num_tasks]``.
    """
    head.weight.copy_(head.weight * (old_sigma / sigma).unsqueeze(1))
    head.bias.copy_((old_sigma * head.bias + old_mu - mu) / sigma)
