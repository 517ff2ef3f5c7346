"""PPO's losses and their gradients against closed forms, derived by hand."""

import math

import pytest
import torch
from torch.nn import functional

from machina.losses.ppo import approximate_kl, clipped_policy_loss, clipped_value_loss, outside_clip

CLIP = 0.2
A = 4

Logits = list[float]


def softmax(logits: Logits) -> list[float]:
    weights = [math.exp(logit) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def gradient_by_hand(logits: Logits, behaviour_log_prob: float, action: int, advantage: float) -> list[float]:
    """d loss / dz_j = -A ratio (1[j = a] - p_j), or 0 where the clip holds the ratio: d ratio / dz = ratio d log p."""
    p = softmax(logits)
    ratio = p[action] / math.exp(behaviour_log_prob)
    if (advantage > 0 and ratio > 1 + CLIP) or (advantage < 0 and ratio < 1 - CLIP):
        return [0.0] * len(logits)
    return [-advantage * ratio * ((j == action) - p[j]) for j in range(len(logits))]


@pytest.mark.parametrize("ratio", [0.3, 0.79, 0.81, 1.0, 1.19, 1.21, 3.0])
@pytest.mark.parametrize("advantage", [-2.0, -0.5, 0.0, 0.5, 2.0])
def test_policy_gradient_of_a_softmax(ratio: float, advantage: float) -> None:
    logits = torch.tensor([0.3, -1.2, 0.8, 0.1], dtype=torch.float64).requires_grad_()
    action = 2
    behaviour = math.log(softmax(logits.tolist())[action] / ratio)
    log_prob = torch.log_softmax(logits, dim=-1)[action]
    loss = clipped_policy_loss(log_prob, torch.tensor(behaviour).double(), torch.tensor(advantage).double(), CLIP)
    torch.autograd.backward(loss)
    expected = torch.tensor(gradient_by_hand(logits.tolist(), behaviour, action, advantage), dtype=torch.float64)
    torch.testing.assert_close(logits.grad, expected)
    held = (advantage > 0 and ratio > 1 + CLIP) or (advantage < 0 and ratio < 1 - CLIP)
    assert bool((expected == 0).all()) == (held or advantage == 0)


def test_policy_gradient_of_a_random_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((5, 7, A), generator=generator, dtype=torch.float64).requires_grad_()
    old_logits = logits.detach() + 0.5 * torch.randn((5, 7, A), generator=generator, dtype=torch.float64)
    advantages = torch.randn((5, 7), generator=generator, dtype=torch.float64).requires_grad_()
    actions = torch.randint(0, A, (5, 7), generator=generator)
    choice = functional.one_hot(actions, A).bool()
    behaviour = torch.log_softmax(old_logits, dim=-1)[choice].view(5, 7).requires_grad_()
    losses = clipped_policy_loss(torch.log_softmax(logits, dim=-1)[choice].view(5, 7), behaviour, advantages, CLIP)
    assert losses.shape == (5, 7)
    torch.autograd.backward(losses.sum())
    expected = torch.tensor(
        [
            [gradient_by_hand(logits[t, b].tolist(), *numbers(behaviour, actions, advantages, t, b)) for b in range(7)]
            for t in range(5)
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(logits.grad, expected)
    held = (expected == 0).all(dim=-1)
    assert held.any()
    assert not held.all()
    assert advantages.grad is None
    assert behaviour.grad is None


def numbers(
    behaviour: torch.Tensor, actions: torch.Tensor, advantages: torch.Tensor, t: int, b: int
) -> tuple[float, int, float]:
    return behaviour[t, b].item(), int(actions[t, b]), advantages[t, b].item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.1, 2.0, -1.1 * 2.0),
        (1.5, 2.0, -1.2 * 2.0),
        (0.5, 2.0, -0.5 * 2.0),
        (0.5, -2.0, 0.8 * 2.0),
        (1.5, -2.0, 1.5 * 2.0),
    ],
)
def test_loss_in_numbers(ratio: float, advantage: float, expected: float) -> None:
    """Figure 1 of the paper: the clip bounds what is gained, never what is lost."""
    loss = clipped_policy_loss(torch.tensor(ratio).log(), torch.zeros(()), torch.tensor(advantage), CLIP)
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "target", "expected", "slope"),
    [
        (1.05, 2.0, 0.95**2 / 2, 1.05 - 2),  # within the clip: the plain error
        (1.5, 2.0, 0.9**2 / 2, 0.0),  # came nearer than the clip allows: held
        (1.5, 0.0, 1.5**2 / 2, 1.5),  # went away: the larger, plain error
        (0.5, 0.0, 0.9**2 / 2, 0.0),
        (2.5, 2.0, 0.9**2 / 2, 0.0),  # overshot, but less than the held one misses
    ],
)
def test_value_loss_and_its_gradient(value: float, target: float, expected: float, slope: float) -> None:
    values = torch.tensor([[value]], dtype=torch.float64).requires_grad_()
    behaviour = torch.ones(1, 1, dtype=torch.float64).requires_grad_()
    targets = torch.full((1, 1), target, dtype=torch.float64).requires_grad_()
    loss = clipped_value_loss(values, behaviour, targets, 0.1)
    assert loss.item() == pytest.approx(expected)
    torch.autograd.backward(loss)
    assert values.grad is not None
    assert values.grad.item() == pytest.approx(slope)
    assert behaviour.grad is None
    assert targets.grad is None


def test_the_mean_over_the_behaviours_actions_is_the_kl_divergence() -> None:
    mu, pi = softmax([0.1, 0.9, -0.4, 1.3]), softmax([0.6, -0.2, 0.2, 0.9])
    log_ratios = torch.tensor([math.log(p / q) for p, q in zip(pi, mu, strict=True)], dtype=torch.float64)
    mean = (torch.tensor(mu, dtype=torch.float64) * approximate_kl(log_ratios)).sum()
    assert mean.item() == pytest.approx(sum(q * math.log(q / p) for p, q in zip(pi, mu, strict=True)))


def test_the_kl_estimate_is_never_negative_and_exact_for_small_steps() -> None:
    log_ratios = torch.cat([torch.linspace(-20, 5, 100_001), torch.logspace(-12, -2, 1001), torch.zeros(1)])
    for signed in (log_ratios, -log_ratios[100_001:]):
        assert (approximate_kl(signed) >= 0).all()
    small = torch.tensor([1e-3, -1e-3])
    torch.testing.assert_close(approximate_kl(small), small.square() / 2, rtol=1e-3, atol=1e-9)
    assert not approximate_kl(torch.zeros(2, requires_grad=True)).requires_grad


def test_ratios_outside_the_clip() -> None:
    ratios = torch.tensor([[0.5, 0.79, 0.81], [1.0, 1.19, 1.21]])
    assert outside_clip(ratios.log(), CLIP).tolist() == [[True, True, False], [False, False, True]]
    at_the_clip = torch.tensor([0.5, -0.5])
    assert not any(outside_clip(each, abs(each.expm1().item())) for each in at_the_clip)


def test_shapes_that_would_broadcast_are_refused() -> None:
    three = torch.zeros(3)
    with pytest.raises(ValueError, match="behaviour_log_probs has shape"):
        clipped_policy_loss(three, torch.zeros(1), three, CLIP)
    with pytest.raises(ValueError, match="advantages has shape"):
        clipped_policy_loss(three, three, torch.zeros(3, 1), CLIP)
    with pytest.raises(ValueError, match="targets has shape"):
        clipped_value_loss(three, three, torch.zeros(()), CLIP)
