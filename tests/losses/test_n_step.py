"""Targets that look n steps ahead, against what their definition says, step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from machina.losses.n_step import n_step_returns, n_step_window

GAMMA = 0.9


def numbers(seed: int, length: int, slots: int) -> tuple[torch.Tensor, ...]:
    """Rewards, continues and done ``[T, B]``, values ``[T + 1, B]``; ends of every kind, often."""
    random = np.random.default_rng(seed)
    kinds = random.choice(["goes on", "terminated", "truncated", "life lost"], (length, slots), p=[0.7, 0.1, 0.1, 0.1])
    return (
        torch.from_numpy(random.normal(size=(length, slots))),
        torch.from_numpy(1.0 - np.isin(kinds, ["terminated", "life lost"])),
        torch.from_numpy(np.isin(kinds, ["terminated", "truncated"])),
        torch.from_numpy(random.normal(size=(length + 1, slots))),
    )


def by_definition(
    rewards: torch.Tensor, continues: torch.Tensor, done: torch.Tensor, t: int, b: int, n: int
) -> tuple[float, float, int]:
    """The return of step ``t``, the discount of the value behind it, and how many steps on that value is."""
    gained = 0.0
    for ahead in range(n):
        gained += GAMMA**ahead * float(rewards[t + ahead, b])
        if continues[t + ahead, b] == 0:
            return gained, 0.0, ahead + 1
        if done[t + ahead, b] or t + ahead == len(rewards) - 1:
            return gained, GAMMA ** (ahead + 1), ahead + 1
    return gained, GAMMA**n, n


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10])
def test_a_window_ends_at_its_first_end(n: int) -> None:
    rewards, continues, done, _ = numbers(n, n, 500)
    window = n_step_window(rewards, continues, done, gamma=GAMMA)
    for b in range(500):
        gained, discount, ahead = by_definition(rewards, continues, done, 0, b, n)
        assert window.returns[b].item() == pytest.approx(gained)
        assert window.discounts[b].item() == pytest.approx(discount)
        assert window.ahead[b].item() == ahead


@pytest.mark.parametrize(("length", "n"), [(1, 1), (7, 1), (7, 3), (9, 5), (4, 10)])
def test_every_step_of_a_sequence_looks_ahead_as_far_as_it_can(length: int, n: int) -> None:
    rewards, continues, done, values = numbers(length + n, length, 200)
    targets = n_step_returns(rewards, continues, done, values, gamma=GAMMA, n=n)
    for t in range(length):
        for b in range(200):
            gained, discount, ahead = by_definition(rewards, continues, done, t, b, n)
            assert targets[t, b].item() == pytest.approx(gained + discount * float(values[t + ahead, b]))


def test_shapes_that_do_not_fit_are_refused() -> None:
    rewards, continues, done, values = numbers(0, 4, 3)
    with pytest.raises(ValueError, match="continues has shape"):
        n_step_window(rewards, continues[1:], done, gamma=GAMMA)
    with pytest.raises(ValueError, match="values has shape"):
        n_step_returns(rewards, continues, done, values[1:], gamma=GAMMA, n=2)
