"""Gradients against their closed forms, derived by hand."""

import pytest
import torch

from machina.losses.actor_critic import policy_gradient_loss, value_loss

T, B = 3, 5


def test_policy_gradient_is_minus_the_advantage() -> None:
    """d(-A log p) / d log p = -A; that of a distribution's parameters follows by its own log-probability."""
    log_probs = torch.linspace(-3, -0.1, T * B).view(T, B).requires_grad_()
    advantages = torch.linspace(-2, 2, T * B).view(T, B).requires_grad_()
    losses = policy_gradient_loss(log_probs, advantages)
    assert losses.shape == (T, B)
    torch.autograd.backward(losses.sum())
    torch.testing.assert_close(log_probs.grad, -advantages.detach())
    assert advantages.grad is None


def test_value_gradient_is_the_error() -> None:
    """d(0.5 (v - V)^2) / dV = V - v."""
    values = torch.linspace(-1, 3, T * B).view(T, B).requires_grad_()
    targets = torch.linspace(2, -2, T * B).view(T, B).requires_grad_()
    losses = value_loss(values, targets)
    assert losses.shape == (T, B)
    torch.autograd.backward(losses.sum())
    torch.testing.assert_close(values.grad, (values - targets).detach())
    assert targets.grad is None


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match="advantages has shape"):
        policy_gradient_loss(torch.zeros(T, B), torch.zeros(T, 1))
    with pytest.raises(ValueError, match="targets has shape"):
        value_loss(torch.zeros(T, B), torch.zeros(T, 1))
    with pytest.raises(ValueError, match="log_probs must have rank 2"):
        policy_gradient_loss(torch.zeros(T, B, 2), torch.zeros(T, B, 2))
