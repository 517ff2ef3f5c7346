"""Gradients against their closed forms, derived by hand."""

import pytest
import torch
from torch.nn import functional

from machina.losses.actor_critic import action_log_probs, entropy_loss, policy_gradient_loss, value_loss

T, B, A = 3, 5, 4


@pytest.fixture
def logits() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn((T, B, A), generator=generator, dtype=torch.float64).requires_grad_()


@pytest.fixture
def actions() -> torch.Tensor:
    return torch.randint(0, A, (T, B), generator=torch.Generator().manual_seed(1))


def test_log_probs_are_those_of_the_softmax(logits: torch.Tensor, actions: torch.Tensor) -> None:
    weights = logits.detach().exp()
    expected = torch.stack(
        [torch.stack([(weights[t, b, actions[t, b]] / weights[t, b].sum()).log() for b in range(B)]) for t in range(T)]
    )
    torch.testing.assert_close(action_log_probs(logits, actions).detach(), expected)


def test_policy_gradient_is_advantage_times_probabilities_minus_choice(
    logits: torch.Tensor, actions: torch.Tensor
) -> None:
    """d(-A log softmax(z)[a]) / dz = A (softmax(z) - onehot(a))."""
    advantages = torch.linspace(-2, 2, T * B, dtype=torch.float64).view(T, B).requires_grad_()
    torch.autograd.backward(policy_gradient_loss(logits, actions, advantages).sum())
    choice = functional.one_hot(actions, A)
    expected = advantages.detach()[..., None] * (logits.detach().softmax(-1) - choice)
    torch.testing.assert_close(logits.grad, expected)
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


def test_entropy_gradient(logits: torch.Tensor) -> None:
    """d(sum p log p) / dz_j = p_j (log p_j + H), where H = -sum p log p."""
    losses = entropy_loss(logits)
    torch.autograd.backward(losses.sum())
    p = logits.detach().softmax(-1)
    entropy = -(p * p.log()).sum(-1)
    torch.testing.assert_close(losses.detach(), -entropy)
    torch.testing.assert_close(logits.grad, p * (p.log() + entropy[..., None]))


def test_shapes_that_would_broadcast_are_refused(logits: torch.Tensor, actions: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="actions has shape"):
        policy_gradient_loss(logits, actions, torch.zeros(T, 1))
    with pytest.raises(ValueError, match="targets has shape"):
        value_loss(torch.zeros(T, B), torch.zeros(T, 1))
    with pytest.raises(ValueError, match="logits must have rank 3"):
        entropy_loss(torch.zeros(T, A))
