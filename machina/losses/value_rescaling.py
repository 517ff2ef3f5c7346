"""The squashing of action values instead of clipped rewards (arXiv 1805.11593, proposition A.2)."""

from __future__ import annotations

from torch import Tensor

EPSILON = 1e-3
"""Keeps the inverse Lipschitz continuous; as in R2D2 (OpenReview r1lyTjAqYX, section 2.3)."""


def rescaled(values: Tensor) -> Tensor:
    """``h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x``, of any shape."""
    return values.sign() * ((values.abs() + 1).sqrt() - 1) + EPSILON * values


def unrescaled(values: Tensor) -> Tensor:
    """The inverse of ``rescaled``; in float64 inside, for it takes differences of near numbers."""
    squashed = values.double()
    root = (1 + 4 * EPSILON * (squashed.abs() + 1 + EPSILON)).sqrt()
    return (squashed.sign() * (((root - 1) / (2 * EPSILON)).square() - 1)).to(values.dtype)
