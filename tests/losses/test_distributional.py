"""Distributions on atoms against the published algorithm, atom by atom."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from machina.losses.distributional import cross_entropies, divergences, projected
from machina.types import Array

ATOMS, B = 51, 40
SUPPORT = torch.linspace(-10, 10, ATOMS, dtype=torch.float64)


def by_loop(probabilities: Array, gained: float, discount: float) -> Array:
    """Algorithm 1 of arXiv 1707.06887."""
    width = 20 / (ATOMS - 1)
    result = np.zeros(ATOMS)
    for atom in range(ATOMS):
        moved = min(10.0, max(-10.0, gained + discount * (-10 + atom * width)))
        place = (moved + 10) / width
        low, high = math.floor(place), math.ceil(place)
        if low == high:
            result[low] += probabilities[atom]
        else:
            result[low] += probabilities[atom] * (high - place)
            result[high] += probabilities[atom] * (place - low)
    return result


def test_the_projection_equals_the_published_loop() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.full(ATOMS, 0.3), B)
    gained, discounts = random.normal(scale=6, size=B), random.choice([0.0, 0.5, 0.99], B)
    given = [torch.from_numpy(each) for each in (probabilities, gained, discounts)]
    got = projected(given[0], given[1], given[2], SUPPORT)
    for b in range(B):
        np.testing.assert_allclose(got[b], by_loop(probabilities[b], gained[b], discounts[b]), atol=1e-12)
    torch.testing.assert_close(got.sum(-1), torch.ones(B, dtype=torch.float64))


def test_of_a_return_that_stops_one_number_is_left() -> None:
    probabilities = torch.full((1, ATOMS), 1 / ATOMS, dtype=torch.float64)
    got = projected(probabilities, torch.tensor([4.0]).double(), torch.zeros(1).double(), SUPPORT)
    assert (got[0] * SUPPORT).sum().item() == pytest.approx(4.0)
    assert (got[0] > 1e-9).sum() == 1


def test_the_divergence_is_0_where_nothing_is_to_be_learned_and_else_the_excess_of_the_cross_entropy() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn((B, ATOMS), generator=random, dtype=torch.float64)
    own = logits.softmax(-1)
    assert divergences(own, logits).max() < 1e-12
    target = torch.zeros_like(own)
    target[:, 3] = 1
    torch.testing.assert_close(divergences(target, logits), cross_entropies(target, logits))
    torch.testing.assert_close(cross_entropies(target, logits), -own[:, 3].log())
