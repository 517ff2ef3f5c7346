import math

import pytest
import torch
from torch import nn

from machina.errors import UserError
from machina.learner.popart import PopArt

SCALES = [1e-3, 1e-1, 1.0, 1e2, 1e5]


@pytest.mark.parametrize("old_scale", SCALES)
@pytest.mark.parametrize("new_scale", SCALES)
@pytest.mark.parametrize("offset", [-3.0, 0.0, 50.0])
def test_an_update_preserves_unnormalized_outputs(old_scale: float, new_scale: float, offset: float) -> None:
    torch.manual_seed(0)
    tasks, T, B = 3, 5, 9  # noqa: N806
    popart = PopArt(tasks, beta=0.3)
    head = nn.Linear(64, tasks)
    task_id = torch.arange(B) % tasks
    mask = torch.ones(T, B, dtype=torch.bool)
    features = torch.randn(T, B, 64)

    def outputs() -> torch.Tensor:
        normalized = head(features).detach().gather(-1, task_id.expand(T, B)[..., None])[..., 0]
        return popart.unnormalized(normalized, task_id)

    for scale in (old_scale, new_scale):
        before, mu, sigma = outputs(), popart.mu, popart.sigma
        popart.update(popart.statistics(scale * (torch.randn(T, B) + offset), task_id, mask), head)
        after = outputs()
        size = (
            torch.maximum(before.abs(), after.abs())
            + torch.maximum(sigma, popart.sigma)[task_id]
            + torch.maximum(mu.abs(), popart.mu.abs())[task_id]
        )
        assert ((after - before).abs() <= 1e-5 * size).all()
        assert not torch.equal(popart.mu, mu)


def naive(
    mu: list[float], nu: list[float], beta: float, unrolls: list[tuple[int, list[float]]]
) -> tuple[list[float], list[float]]:
    """k unrolls of a task move its statistics by 1 - (1 - beta)^k towards the mean of their means."""
    mu, nu = list(mu), list(nu)
    for task in range(len(mu)):
        own = [targets for owner, targets in unrolls if owner == task and targets]
        if not own:
            continue
        mean = sum(sum(targets) / len(targets) for targets in own) / len(own)
        square = sum(sum(x * x for x in targets) / len(targets) for targets in own) / len(own)
        keep = 1.0
        for _ in own:
            keep *= 1 - beta
        mu[task] = keep * mu[task] + (1 - keep) * mean
        nu[task] = keep * nu[task] + (1 - keep) * square
    return mu, nu


def test_statistics_equal_a_naive_twin_with_masks_and_absent_tasks() -> None:
    torch.manual_seed(1)
    tasks, T, B, beta = 4, 7, 11, 0.02  # noqa: N806
    popart = PopArt(tasks, beta=beta)
    head = nn.Linear(3, tasks)
    mu, nu = [0.0] * tasks, [1.0] * tasks
    for _ in range(20):
        task_id = torch.randint(0, tasks - 1, (B,))  # the last task never appears
        vs = torch.randn(T, B) * 10.0**task_id + task_id
        mask = torch.rand(T, B) < 0.7
        mask[:, 0] = False  # an unroll without a single counted step
        unrolls = [(int(task_id[b]), vs[mask[:, b], b].double().tolist()) for b in range(B)]
        mu, nu = naive(mu, nu, beta, unrolls)
        popart.update(popart.statistics(vs, task_id, mask), head)
    torch.testing.assert_close(popart.mu, torch.tensor(mu, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(popart.nu, torch.tensor(nu, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    expected_sigma = [math.sqrt(n - m * m) for m, n in zip(mu, nu, strict=True)]
    torch.testing.assert_close(popart.sigma, torch.tensor(expected_sigma, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    assert [float(each[-1]) for each in (popart.mu, popart.nu, popart.sigma)] == [0.0, 1.0, 1.0]


def test_one_unroll_moves_the_statistics_by_beta_once() -> None:
    popart = PopArt(1, beta=3e-4)
    head = nn.Linear(2, 1)
    vs = torch.full((20, 1), 7.0)
    popart.update(popart.statistics(vs, torch.zeros(1, dtype=torch.int64), torch.ones(20, 1, dtype=torch.bool)), head)
    assert popart.mu.item() == pytest.approx(3e-4 * 7, rel=1e-12)
    assert popart.nu.item() == pytest.approx((1 - 3e-4) * 1 + 3e-4 * 49, rel=1e-12)


def test_statistics_of_parts_add_up_whatever_their_order() -> None:
    torch.manual_seed(2)
    popart = PopArt(2)
    vs, task_id, mask = torch.randn(5, 6), torch.tensor([0, 1, 1, 0, 1, 1]), torch.rand(5, 6) < 0.8
    whole = popart.statistics(vs, task_id, mask)
    parts = [popart.statistics(vs[:, s], task_id[s], mask[:, s]) for s in (slice(4, 6), slice(0, 4))]
    torch.testing.assert_close(parts[0] + parts[1], whole)


def test_sigma_is_bounded() -> None:
    popart = PopArt(2, beta=1.0)
    vs = torch.tensor([[5.0, 1e9], [5.0, -1e9]])
    popart.update(popart.statistics(vs, torch.arange(2), torch.ones(2, 2, dtype=torch.bool)), nn.Linear(2, 2))
    assert popart.sigma.tolist() == [1e-4, 1e6]


def test_sigma_survives_a_large_mean() -> None:
    """In float32 nu - mu^2 would be off by about 1,000 at this scale."""
    popart = PopArt(1, beta=1.0)
    vs = torch.tensor([[1e5 - 2.0], [1e5 + 2.0]])
    popart.update(popart.statistics(vs, torch.zeros(1, dtype=torch.int64), torch.ones(2, 1).bool()), nn.Linear(2, 1))
    assert popart.sigma.item() == pytest.approx(2.0, rel=1e-5)


def test_normalized_inverts_unnormalized() -> None:
    popart = PopArt(2, beta=0.5)
    task_id = torch.tensor([0, 1, 0])
    popart.update(popart.statistics(torch.randn(4, 3) * 300 + 40, task_id, torch.ones(4, 3).bool()), nn.Linear(2, 2))
    values = torch.randn(4, 3)
    torch.testing.assert_close(popart.normalized(popart.unnormalized(values, task_id), task_id), values)


def test_the_update_changes_the_tensors_that_the_optimizer_holds() -> None:
    head = nn.Linear(2, 1)
    pointers = head.weight.data_ptr(), head.bias.data_ptr()
    weight = head.weight.detach().clone()
    popart = PopArt(1, beta=0.5)
    popart.update(popart.statistics(torch.randn(3, 1) * 9, torch.zeros(1).long(), torch.ones(3, 1).bool()), head)
    assert pointers == (head.weight.data_ptr(), head.bias.data_ptr())
    assert not torch.equal(head.weight, weight)
    assert head.weight.requires_grad


def test_an_unroll_of_a_single_step_counts_as_any_other() -> None:
    popart = PopArt(2, beta=0.5)
    mask = torch.tensor([[True, True], [False, True], [False, False]])
    vs = torch.tensor([[3.0, 1.0], [99.0, 3.0], [99.0, 99.0]])
    sums = popart.statistics(vs, torch.tensor([1, 0]), mask)
    assert sums.tolist() == [[1, 1], [2, 3], [5, 9]]
    assert sums.dtype == torch.float64


def test_start_and_default_constants() -> None:
    popart = PopArt(2)
    assert (popart.beta, popart.sigma_min, popart.sigma_max) == (3e-4, 1e-4, 1e6)
    assert [popart.mu.tolist(), popart.nu.tolist(), popart.sigma.tolist()] == [[0, 0], [1, 1], [1, 1]]
    popart.nu = torch.tensor([0.5, 2.0], dtype=torch.float64)
    popart.mu = torch.tensor([0.9, 1.0], dtype=torch.float64)  # the variance of the first one would be negative
    assert popart.sigma.tolist() == [1e-4, 1.0]


def test_a_state_is_a_copy_both_ways_and_keeps_its_precision() -> None:
    popart, other = PopArt(2), PopArt(2)
    popart.mu, popart.nu = torch.tensor([1 / 3, -2.0]).double(), torch.tensor([1e9, 5.0]).double()
    state = popart.state()
    assert sorted(state) == ["mu", "nu"]
    other.load_state({name: tensor.float() for name, tensor in state.items()})
    assert other.mu.dtype == other.nu.dtype == torch.float64
    other.load_state(state)
    assert torch.equal(other.mu, popart.mu)
    assert torch.equal(other.nu, popart.nu)
    for tensor in (popart.mu, popart.nu, other.mu, other.nu):
        tensor += 1
    assert torch.equal(state["mu"], torch.tensor([1 / 3, -2.0]).double())
    assert torch.equal(state["nu"], torch.tensor([1e9, 5.0]).double())


def test_values_are_float32_and_statistics_float64() -> None:
    popart, task_id = PopArt(1, beta=0.5), torch.tensor([0])
    popart.mu += 0.1
    assert popart.unnormalized(torch.ones(2, 1), task_id).dtype == torch.float32
    assert popart.normalized(torch.ones(2, 1), task_id).dtype == torch.float32
    popart.update(popart.statistics(torch.ones(2, 1), task_id, torch.ones(2, 1).bool()), nn.Linear(2, 1))
    assert popart.mu.dtype == popart.nu.dtype == torch.float64


@pytest.mark.parametrize("name", ["mu", "nu"])
def test_a_state_of_other_tasks_is_refused_by_name(name: str) -> None:
    popart, state = PopArt(2), PopArt(2).state()
    state[name] = torch.zeros(3).double()
    with pytest.raises(UserError, match=rf"popart\.{name} has shape \(3,\), this network needs \(2,\)"):
        popart.load_state(state)
    del state[name]
    with pytest.raises(UserError, match=rf"popart\.{name} is missing"):
        popart.load_state(state)
