"""Q(lambda) against what its definition says, step by step."""

import numpy as np
import pytest
import torch

from machina.losses.q_lambda import q_lambda_returns

GAMMA = 0.9
T, B = 7, 5


def numbers(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards ``[T, B]`` and highest values ``[T + 1, B]``."""
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn((T, B), generator=generator, dtype=torch.float64)
    return rewards, torch.randn((T + 1, B), generator=generator, dtype=torch.float64)


def endless(rewards: torch.Tensor, max_q: torch.Tensor, lambda_: float) -> torch.Tensor:
    mask = torch.ones(T, B, dtype=torch.bool)
    return q_lambda_returns(rewards, torch.ones_like(rewards), max_q, mask, gamma=GAMMA, lambda_=lambda_)


def test_lambda_0_is_q_learning() -> None:
    rewards, max_q = numbers(0)
    torch.testing.assert_close(endless(rewards, max_q, 0.0), rewards + GAMMA * max_q[1:])


def test_lambda_1_is_the_return_to_the_end_of_the_unroll() -> None:
    rewards, max_q = numbers(1)
    for t, got in enumerate(endless(rewards, max_q, 1.0)):
        total = GAMMA ** (T - t) * max_q[T] + sum(GAMMA ** (k - t) * rewards[k] for k in range(t, T))
        torch.testing.assert_close(got, total)


def test_between_them_it_is_the_weighted_mean_of_all_look_aheads() -> None:
    rewards, max_q = numbers(2)
    lambda_ = 0.65
    for t, got in enumerate(endless(rewards, max_q, lambda_)):
        look_aheads = [
            sum(GAMMA**i * rewards[t + i] for i in range(k)) + GAMMA**k * max_q[t + k] for k in range(1, T - t + 1)
        ]
        weights = [(1 - lambda_) * lambda_ ** (k - 1) for k in range(1, T - t)]
        weights.append(1 - sum(weights))
        expected = sum(weight * value for weight, value in zip(weights, look_aheads, strict=True))
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("seed", range(3))
def test_ends_cuts_and_lost_lives_stop_what_they_should(seed: int) -> None:
    """A slow transcription by recursion: nothing looks past an episode's last observation."""
    random = np.random.default_rng(seed)
    rewards, max_q = numbers(seed)
    done = random.random((T + 1, B)) < 0.25  # entry t is an episode's last
    stops = (done & (random.random((T + 1, B)) < 0.5)) | (random.random((T + 1, B)) < 0.1)  # ended, not cut; lives
    mask, continues = ~done[:-1], ~stops[1:]
    lambda_ = 0.65

    def value_of(t: int, b: int) -> float:
        if not continues[t, b]:
            return float(rewards[t, b])
        last = t + 1 == T or done[t + 1, b]
        ahead = float(max_q[t + 1, b])
        if not last:
            ahead = lambda_ * value_of(t + 1, b) + (1 - lambda_) * ahead
        return float(rewards[t, b]) + GAMMA * ahead

    got = q_lambda_returns(
        rewards,
        torch.from_numpy(continues).double(),
        max_q,
        torch.from_numpy(mask),
        gamma=GAMMA,
        lambda_=lambda_,
    )
    for t, b in np.argwhere(mask):
        assert got[t, b].item() == pytest.approx(value_of(t, b))


def test_targets_carry_no_gradient() -> None:
    rewards, max_q = numbers(3)
    assert not endless(rewards, max_q.requires_grad_(), 0.5).requires_grad


def test_shapes_that_would_broadcast_are_refused() -> None:
    rewards, max_q = numbers(3)
    good = {
        "rewards": rewards,
        "continues": torch.ones(T, B),
        "max_q": max_q,
        "mask": torch.ones(T, B, dtype=torch.bool),
    }
    for name, tensor in good.items():
        for wrong in (tensor[:, :1], tensor[:-1]):
            with pytest.raises(ValueError, match=r"has shape"):
                q_lambda_returns(**{**good, name: wrong}, gamma=GAMMA, lambda_=0.5)
    flat = {name: tensor[:, 0] for name, tensor in good.items()}
    with pytest.raises(ValueError, match=r"2"):
        q_lambda_returns(**flat, gamma=GAMMA, lambda_=0.5)
