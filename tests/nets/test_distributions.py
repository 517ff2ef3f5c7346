"""Against torch.distributions, and samples against their own probabilities."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributions

from machina.nets.distributions import (
    FORBIDDEN,
    Categorical,
    Gaussian,
    MultiCategorical,
    distribution_of,
    masked,
)
from machina.specs import ActionSpec, discrete

CHOICES = (3, 2, 4)
MULTI_DISCRETE = ActionSpec(kind="multi_discrete", choices=CHOICES)
CONTINUOUS = ActionSpec(kind="continuous", low=(-1.0,) * 3, high=(1.0,) * 3)
LEADING = [(), (7,), (4, 5)]
LARGEST_UNIFORM = float(np.nextafter(np.float32(1), np.float32(0)))


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def components(parameters: Tensor) -> list[Any]:
    return [distributions.Categorical(logits=logits) for logits in torch.split(parameters, list(CHOICES), dim=-1)]


@pytest.mark.parametrize("leading", LEADING)
def test_categorical_equals_torchs(leading: tuple[int, ...]) -> None:
    logits, actions = double(*leading, 6) * 3, torch.randint(0, 6, leading)
    expected: Any = distributions.Categorical(logits=logits)
    torch.testing.assert_close(Categorical().log_probs(logits, actions), expected.log_prob(actions))
    torch.testing.assert_close(Categorical().entropies(logits), expected.entropy())


@pytest.mark.parametrize("leading", LEADING)
def test_multi_categorical_equals_torchs_sum_over_components(leading: tuple[int, ...]) -> None:
    family = distribution_of(MULTI_DISCRETE)
    assert isinstance(family, MultiCategorical)
    parameters = double(*leading, sum(CHOICES)) * 2
    actions = torch.stack([torch.randint(0, count, leading) for count in CHOICES], dim=-1)
    expected = components(parameters)
    log_probs = sum(each.log_prob(chosen) for each, chosen in zip(expected, actions.unbind(-1), strict=True))
    torch.testing.assert_close(family.log_probs(parameters, actions), log_probs)
    torch.testing.assert_close(family.entropies(parameters), sum(each.entropy() for each in expected))


@pytest.mark.parametrize("leading", LEADING)
def test_gaussian_equals_torchs(leading: tuple[int, ...]) -> None:
    family = distribution_of(CONTINUOUS)
    assert isinstance(family, Gaussian)
    means, log_deviations, actions = (double(*leading, 3) for _ in range(3))
    expected: Any = distributions.Independent(distributions.Normal(means, log_deviations.exp()), 1)
    parameters = torch.cat([means, log_deviations], dim=-1)
    torch.testing.assert_close(family.log_probs(parameters, actions * 5), expected.log_prob(actions * 5))
    torch.testing.assert_close(family.entropies(parameters), expected.entropy())


@pytest.mark.parametrize("action", [discrete(6), MULTI_DISCRETE, CONTINUOUS], ids=lambda action: str(action.kind))
def test_gradients_equal_finite_differences(action: ActionSpec) -> None:
    torch.manual_seed(0)
    family = distribution_of(action)
    parameters = double(3, action.num_parameters).requires_grad_()
    actions = family.sampled(parameters.detach(), torch.rand(3, *action.shape))
    assert torch.autograd.gradcheck(lambda each: family.log_probs(each, actions), parameters)
    assert torch.autograd.gradcheck(family.entropies, parameters)


@pytest.mark.parametrize("action", [discrete(6), MULTI_DISCRETE, CONTINUOUS], ids=lambda action: str(action.kind))
def test_samples_have_the_actions_shape_and_type_and_follow_their_own_uniforms(action: ActionSpec) -> None:
    torch.manual_seed(0)
    family = distribution_of(action)
    parameters, uniforms = torch.randn(4, 5, action.num_parameters), torch.rand(4, 5, *action.shape)
    actions = family.sampled(parameters, uniforms)
    assert actions.shape == (4, 5, *action.shape)
    assert str(actions.dtype) == f"torch.{action.dtype}"
    alone = torch.stack([family.sampled(parameters[t, 2:3], uniforms[t, 2:3])[0] for t in range(4)])
    torch.testing.assert_close(actions[:, 2], alone)


def chi_square(counts: Tensor, probabilities: Tensor) -> float:
    expected = probabilities * counts.sum()
    return float(((counts - expected).square() / expected).sum())


def test_categorical_samples_pass_a_chi_square_test() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, -3.0])
    actions = Categorical().sampled(logits.expand(50_000, 5), torch.rand(50_000, generator=generator))
    # 23.5 is the 99.99 % point for 4 degrees of freedom.
    assert chi_square(actions.bincount(minlength=5), logits.softmax(0)) < 23.5
    assert chi_square(actions.bincount(minlength=5), (logits * 0.9).softmax(0)) > 100


def test_multi_categorical_samples_are_independent_and_pass_a_chi_square_test() -> None:
    generator = torch.Generator().manual_seed(4)
    parameters = torch.randn(sum(CHOICES), generator=generator)
    family = MultiCategorical(CHOICES)
    uniforms = torch.rand(50_000, len(CHOICES), generator=generator)
    actions = family.sampled(parameters.expand(50_000, -1), uniforms)
    first, second, third = (each.probs for each in components(parameters))
    joint = torch.einsum("i,j,k->ijk", first, second, third).flatten()
    cells = (actions[:, 0] * CHOICES[1] + actions[:, 1]) * CHOICES[2] + actions[:, 2]
    # 56.0 is the 99.99 % point for 23 degrees of freedom.
    assert chi_square(cells.bincount(minlength=len(joint)), joint) < 56.0


def test_gaussian_samples_pass_a_kolmogorov_smirnov_test() -> None:
    generator = torch.Generator().manual_seed(5)
    parameters = torch.tensor([0.5, -2.0, 0.0, math.log(0.1), math.log(3.0), 0.0])
    count = 50_000
    actions = Gaussian().sampled(parameters.expand(count, 6), torch.rand(count, 3, generator=generator))
    # 2.23 / sqrt(N) is the 99.99 % point of the greatest distance between the distribution functions.
    bound = 2.23 / math.sqrt(count)
    steps = torch.arange(1, count + 1, dtype=torch.float64) / count
    for index in range(3):
        normal: Any = distributions.Normal(parameters[index].double(), parameters[3 + index].double().exp())
        levels = normal.cdf(actions[:, index].double().sort().values)
        assert torch.maximum((levels - steps).abs(), (levels - steps + 1 / count).abs()).max() < bound
    correlation = torch.corrcoef(actions.T) - torch.eye(3)
    assert correlation.abs().max() < 5 / math.sqrt(count)


def test_gaussian_samples_are_finite_at_the_ends_of_the_uniforms() -> None:
    ends = torch.tensor([[0.0], [LARGEST_UNIFORM], [0.5]])
    samples = Gaussian().sampled(torch.zeros(3, 2), ends)
    # The normal quantile of 1e-6 is -4.7534; float32 resolves 1 - 1e-6 to 6e-8.
    torch.testing.assert_close(samples, torch.tensor([[-4.7534], [4.7534], [0.0]]), rtol=0, atol=0.02)


@pytest.mark.parametrize("choices", [2, 5, 18, 400])
def test_no_uniform_number_picks_what_has_no_probability(choices: int) -> None:
    """At the largest uniform number a sum in float32 ends below it for many logits."""
    generator = torch.Generator().manual_seed(choices)
    logits = torch.randn(20_000, choices, generator=generator) * 3
    allowed = torch.rand(20_000, choices, generator=generator) < 0.5
    allowed[torch.arange(20_000), torch.randint(0, choices, (20_000,), generator=generator)] = True
    allowed[:, -1] &= allowed.sum(dim=1) == 1
    for uniform in (0.0, 0.5, LARGEST_UNIFORM):
        actions = Categorical().sampled(masked(logits, allowed), torch.full((20_000,), uniform))
        assert allowed.gather(1, actions.unsqueeze(1)).all(), uniform


def test_masks_take_forbidden_actions_out_and_renormalize_the_rest() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    allowed = torch.tensor([[True, False, True, False]])
    family, kept = Categorical(), logits[:, ::2]
    answer = masked(logits, allowed)
    assert answer[~allowed].tolist() == [FORBIDDEN] * 2
    torch.testing.assert_close(family.entropies(answer), family.entropies(kept))
    for action, same in ((0, 0), (2, 1)):
        got = family.log_probs(answer, torch.tensor([action]))
        torch.testing.assert_close(got, family.log_probs(kept, torch.tensor([same])))
    assert family.log_probs(answer, torch.tensor([1])).item() < -1e8


def test_masks_of_several_choices_hold_component_by_component() -> None:
    family = MultiCategorical(CHOICES)
    allowed = torch.tensor([False, True, True, True, False, False, False, True, False])
    generator = torch.Generator().manual_seed(0)
    parameters = masked(torch.randn(9, generator=generator), allowed).expand(2_000, 9)
    actions = family.sampled(parameters, torch.rand(2_000, 3, generator=generator))
    assert [set(column.tolist()) for column in actions.unbind(1)] == [{1, 2}, {0}, {2}]
    torch.testing.assert_close(family.entropies(parameters[0]), Categorical().entropies(parameters[0, 1:3]))


def test_nothing_allowed_is_everything_alike_and_gives_no_nan() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    answer = masked(logits, torch.zeros(3, 4, dtype=torch.bool))
    family = Categorical()
    torch.testing.assert_close(family.entropies(answer), torch.full((3,), math.log(4)))
    torch.autograd.backward((family.entropies(answer) + family.log_probs(answer, torch.tensor([0, 1, 2]))).sum())
    assert logits.grad is not None
    assert not logits.grad.any()


def test_gradients_of_masked_logits_are_those_of_the_allowed_alone() -> None:
    logits = double(3, 5).requires_grad_()
    allowed = torch.tensor([[True, False, True, True, False]]).expand(3, 5)
    family, actions = Categorical(), torch.tensor([0, 2, 3])
    answer = masked(logits, allowed)
    torch.autograd.backward((family.log_probs(answer, actions) + family.entropies(answer)).sum())
    kept = logits.detach()[:, [0, 2, 3]].requires_grad_()
    torch.autograd.backward((family.log_probs(kept, torch.tensor([0, 1, 2])) + family.entropies(kept)).sum())
    assert logits.grad is not None
    assert kept.grad is not None
    torch.testing.assert_close(logits.grad[:, [0, 2, 3]], kept.grad)
    assert not logits.grad[:, [1, 4]].any()
