"""Squashed values, margins, priorities of sequences."""

from __future__ import annotations

import math

import pytest
import torch

from machina.losses.q_learning import huber, margin_loss, sequence_priorities, values_of
from machina.losses.value_rescaling import rescaled, unrescaled


def test_squashing_is_undone_in_float32() -> None:
    values = torch.cat([torch.linspace(-1e5, 1e5, 1001), torch.linspace(-2, 2, 1001)])
    torch.testing.assert_close(unrescaled(rescaled(values)), values, rtol=2e-5, atol=1e-5)
    assert rescaled(torch.tensor(3.0)).item() == pytest.approx(math.sqrt(4) - 1 + 3e-3)
    assert rescaled(torch.tensor(-3.0)).item() == pytest.approx(-(math.sqrt(4) - 1 + 3e-3))


def test_huber_is_half_the_square_up_to_1_and_its_slope_never_more_than_1() -> None:
    errors = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.25, 2.0], requires_grad=True)
    losses = huber(errors)
    assert losses.tolist() == pytest.approx([2.5, 0.5, 0.125, 0.0, 0.03125, 1.5])
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert errors.grad is not None
    assert errors.grad.tolist() == pytest.approx([-1.0, -1.0, -0.5, 0.0, 0.25, 1.0])


def test_the_margin_is_by_how_much_another_action_is_not_worse_enough() -> None:
    q_values = torch.tensor([[1.0, 3.0, 2.5], [1.0, 3.0, 2.0]])
    assert margin_loss(q_values, torch.tensor([1, 0]), margin=0.8).tolist() == pytest.approx([0.3, 2.8])
    assert values_of(q_values, torch.tensor([1, -1])).tolist() == [3.0, 1.0]


def test_a_sequence_is_as_urgent_as_its_largest_error_and_their_mean() -> None:
    errors = torch.tensor([[1.0, -4.0, 9.0], [-3.0, 2.0, 9.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    got = sequence_priorities(errors, mask, eta=0.9).tolist()
    assert got == pytest.approx([0.9 * 3 + 0.1 * 2, 4.0, 0.0])
