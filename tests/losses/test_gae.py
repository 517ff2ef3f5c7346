"""GAE where every slot is always on turn; ends, deaths and turns are in test_boundaries."""

import pytest
import torch

from machina.losses.gae import GAEReturns, gae

GAMMA = 0.9
T, B = 6, 3


def random_numbers(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards ``[T, B]`` and values ``[T + 1, B]``."""
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn((T, B), generator=generator, dtype=torch.float64)
    return rewards, torch.randn((T + 1, B), generator=generator, dtype=torch.float64)


def endless(rewards: torch.Tensor, values: torch.Tensor, lambda_: float) -> GAEReturns:
    mask = torch.ones(T, B, dtype=torch.bool)
    return gae(rewards, torch.ones_like(rewards), values[:-1], values[-1], mask, GAMMA, lambda_)


def test_lambda_0_is_the_temporal_difference() -> None:
    """Equation 17 of the paper."""
    rewards, values = random_numbers(0)
    expected = rewards + GAMMA * values[1:]
    torch.testing.assert_close(endless(rewards, values, 0.0).targets, expected)
    torch.testing.assert_close(endless(rewards, values, 0.0).advantages, expected - values[:-1])


def test_lambda_1_is_the_return_minus_the_value() -> None:
    """Equation 18 of the paper, bootstrapped at the end of the unroll."""
    rewards, values = random_numbers(1)
    returns = endless(rewards, values, 1.0)
    for t in range(T):
        total = GAMMA ** (T - t) * values[T] + sum(GAMMA ** (k - t) * rewards[k] for k in range(t, T))
        torch.testing.assert_close(returns.targets[t], total)
        torch.testing.assert_close(returns.advantages[t], total - values[t])


def test_between_them_it_is_the_weighted_mean_of_all_look_aheads() -> None:
    """Equation 16: (1 - lambda) sum lambda^(k - 1) A^(k), and what is left of the weight on the longest."""
    rewards, values = random_numbers(2)
    lambda_ = 0.7
    for t in range(T):
        look_aheads = [
            sum(GAMMA**i * rewards[t + i] for i in range(k)) + GAMMA**k * values[t + k] - values[t]
            for k in range(1, T - t + 1)
        ]
        weights = [(1 - lambda_) * lambda_ ** (k - 1) for k in range(1, T - t)]
        weights.append(1 - sum(weights))
        expected = sum(weight * advantage for weight, advantage in zip(weights, look_aheads, strict=True))
        torch.testing.assert_close(endless(rewards, values, lambda_).advantages[t], expected)


def test_returns_carry_no_gradient() -> None:
    rewards, values = random_numbers(3)
    returns = endless(rewards, values.requires_grad_(), 0.5)
    assert not returns.advantages.requires_grad
    assert not returns.targets.requires_grad


def test_float32_stays_float32() -> None:
    rewards, values = random_numbers(4)
    returns = endless(rewards.float(), values.float(), 0.5)
    assert returns.advantages.dtype == returns.targets.dtype == torch.float32


def test_wrong_shapes_are_refused() -> None:
    rewards, values = random_numbers(5)
    mask = torch.ones(T, B, dtype=torch.bool)
    with pytest.raises(ValueError, match="values has shape"):
        gae(rewards, torch.ones_like(rewards), values, values[-1], mask, GAMMA, 0.5)
    with pytest.raises(ValueError, match="mask has shape"):
        gae(rewards, torch.ones_like(rewards), values[:-1], values[-1], mask[:, :1], GAMMA, 0.5)
