"""Chances of items against their definitions, over plain dictionaries of errors."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from machina.buffers.priorities import RESORT_SHARE, Priorities, PriorityRule
from machina.errors import UserError
from machina.types import Array, IntArray

PROPORTIONAL = PriorityRule("proportional", 0.6, 1e-3)
RANK = PriorityRule("rank", 0.7, 0.0)
GREEDY = PriorityRule("greedy", 0.0, 0.0)
EQUAL = PriorityRule("none", 0.6, 0.0)
ALL = [PROPORTIONAL, RANK, GREEDY, EQUAL]


def masses_of(priorities: Priorities, capacity: int) -> dict[int, float]:
    """Every item's mass, found by draws that are close to one another."""
    indices, masses = priorities.draw((np.arange(200 * capacity) + 0.5) / (200 * capacity))
    return dict(zip(indices.tolist(), masses.tolist(), strict=True))


@pytest.mark.parametrize("rule", [PROPORTIONAL, EQUAL, PriorityRule("proportional", 0.0, 1.0)])
def test_masses_follow_the_errors_and_new_items_have_the_largest(rule: PriorityRule) -> None:
    capacity, random = 50, np.random.default_rng(0)
    exponent = 0.0 if rule.kind == "none" else rule.exponent
    priorities, naive = Priorities(rule, capacity), dict[int, float]()
    for _ in range(300):
        indices = random.permutation(capacity)[: random.integers(1, 8)]
        action = random.integers(3)
        if action == 0:
            new = np.array([i for i in indices.tolist() if i not in naive], np.int64)
            naive |= dict.fromkeys(new.tolist(), max(naive.values(), default=1.0))
            priorities.add(new)
        elif action == 1:
            there = np.array([i for i in indices.tolist() if i in naive], np.int64)
            errors = np.where(random.random(len(there)) < 0.2, np.nan, random.normal(size=len(there)))
            for i, error in zip(there.tolist(), errors.tolist(), strict=True):
                naive[i] = naive[i] if np.isnan(error) else (abs(error) + rule.epsilon) ** exponent
            priorities.set(there, errors)
        else:
            there = np.array([i for i in indices.tolist() if i in naive][:3], np.int64)
            for i in there.tolist():
                del naive[i]
            priorities.remove(there)
        assert priorities.num_items == len(naive)
        assert priorities.has(np.arange(capacity)).tolist() == [i in naive for i in range(capacity)]
        assert priorities.total == pytest.approx(sum(naive.values()))
    assert masses_of(priorities, capacity) == pytest.approx(naive)


def test_of_an_item_that_is_set_twice_the_last_error_counts() -> None:
    priorities = Priorities(PriorityRule("proportional", 1.0, 1.0), 4)
    priorities.set(np.array([2, 1, 2, 2]), np.array([5.0, 3.0, -7.0, np.nan]))
    assert priorities.num_items == 2
    assert masses_of(priorities, 4) == {1: 4.0, 2: 8.0}


@pytest.mark.parametrize("gone", ["removed", "updated"])
def test_the_largest_mass_falls_with_the_items_that_have_it(gone: str) -> None:
    priorities = Priorities(PriorityRule("proportional", 1.0, 1e-9), 100)
    priorities.set(np.arange(10), np.full(10, 0.01))
    priorities.set(np.array([3, 4]), np.array([50.0, 60.0]))
    priorities.add(np.array([20]))
    assert priorities.total == pytest.approx(8 * 0.01 + 50 + 60 + 60)
    large = np.array([3, 4, 20])
    if gone == "removed":
        priorities.remove(large)
    else:
        priorities.set(large, np.full(3, 0.01))
    priorities.add(np.array([21]))
    assert masses_of(priorities, 100)[21] == pytest.approx(0.01)


@pytest.mark.parametrize("rule", [PROPORTIONAL, EQUAL])
def test_among_small_errors_a_new_item_gets_no_more_than_twice_its_share(rule: PriorityRule) -> None:
    priorities = Priorities(rule, 1000)
    priorities.add(np.arange(500))
    priorities.set(np.arange(500), np.full(500, 0.01))
    priorities.add(np.array([700]))
    chance = priorities.draw(np.array([1 - 1e-9]))[1][0] / priorities.total
    assert chance * 1.0001 >= 1 / 501
    assert chance <= 2 / 501


def exact_ranks(errors: dict[int, float], exponent: float) -> dict[int, float]:
    order = sorted(errors, key=lambda i: -errors[i])
    return {i: float(rank) ** -exponent for rank, i in enumerate(order, 1)}


def test_by_rank_few_items_have_exact_ranks() -> None:
    """With fewer than ``RESORT_SHARE`` items every change is followed by a sort."""
    priorities, random = Priorities(RANK, 20), np.random.default_rng(1)
    errors = dict[int, float]()
    for _ in range(50):
        index = int(random.integers(RESORT_SHARE - 1))
        errors[index] = float(random.random())
        priorities.set(np.array([index]), np.array([-errors[index]]))
        assert masses_of(priorities, 20) == pytest.approx(exact_ranks(errors, 0.7))


def test_by_rank_masses_stay_near_the_exact_ones_between_sorts() -> None:
    capacity, random = 2000, np.random.default_rng(2)
    priorities = Priorities(RANK, capacity)
    priorities.add(np.arange(capacity))
    errors = random.random(capacity)
    priorities.set(np.arange(capacity), errors)
    for _ in range(40):
        changed = random.integers(0, capacity, 30)
        errors[changed] = random.random(30)
        priorities.set(changed, errors[changed])
        exact = exact_ranks(dict(enumerate(errors.tolist())), 0.7)
        assert priorities.total == pytest.approx(sum(exact.values()), rel=0.1)
        indices, masses = priorities.draw(random.random(500))
        assert np.median(np.abs(masses / [exact[int(i)] for i in indices] - 1)) < 0.1


def test_by_rank_new_items_come_first_and_the_oldest_of_them() -> None:
    priorities = Priorities(RANK, 100)
    priorities.set(np.arange(50), np.linspace(1e9, 1, 50))
    assert priorities.draw(np.zeros(1))[0] == 0
    priorities.add(np.array([90, 80]))
    priorities.set(np.arange(50), np.linspace(1e9, 1, 50))  # so many changes that a sort is due
    masses = masses_of(priorities, 1000)
    assert (masses[90], masses[80], masses[0]) == pytest.approx((1, 2**-0.7, 3**-0.7))


def test_by_rank_draws_follow_the_masses() -> None:
    priorities = Priorities(RANK, 64)
    priorities.set(np.arange(40), np.random.default_rng(3).random(40))
    indices, masses = priorities.draw(np.random.default_rng(4).random(100_000))
    counts = np.bincount(indices, minlength=40)
    expected = np.zeros(40)
    expected[indices] = 100_000 * masses / priorities.total
    assert ((counts - expected) ** 2 / expected).sum() < 39 + 5 * np.sqrt(2 * 39)


@pytest.mark.parametrize("capacity", [40, 200])
def test_greedy_takes_the_largest_and_of_equals_the_oldest(capacity: int) -> None:
    random = np.random.default_rng(capacity)
    priorities, naive = Priorities(GREEDY, capacity), dict[int, tuple[float, int]]()
    added = 0
    for _ in range(100):
        for index in random.permutation(capacity)[:5].tolist():
            one: IntArray = np.array([index])
            if index in naive and random.random() < 0.3:
                del naive[index]
                priorities.remove(one)
            elif index in naive:
                error = float(random.integers(4))
                naive[index] = (-error, naive[index][1])
                priorities.set(one, np.array([error]))
            else:
                naive[index] = (-np.inf, added)
                added += 1
                priorities.add(one)
        if not naive:
            continue
        count = int(random.integers(1, 12))
        indices, masses = priorities.draw(random.random(count))
        best = sorted(naive, key=lambda index: naive[index])
        assert indices.tolist() == [best[k % len(best)] for k in range(count)]
        assert masses.tolist() == [1.0] * count
        assert priorities.total == len(naive)


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.kind)
def test_a_restored_state_draws_the_same_bit_for_bit(rule: PriorityRule) -> None:
    random = np.random.default_rng(5)
    priorities = Priorities(rule, 300)
    for _ in range(30):
        priorities.add(np.flatnonzero(~priorities.has(np.arange(300)))[:9])
        there = np.flatnonzero(priorities.has(np.arange(300)))
        priorities.set(there[::3], random.random(len(there[::3])))
        priorities.remove(random.permutation(there)[:4])
    restored = Priorities(rule, 300)
    restored.load_state({name: array.copy() for name, array in priorities.state().items()})
    for _ in range(10):
        fractions = random.random(64)
        assert (restored.total, restored.num_items) == (priorities.total, priorities.num_items)
        for own, other in zip(priorities.draw(fractions), restored.draw(fractions), strict=True):
            np.testing.assert_array_equal(own, other)
        errors: Array = random.random(64)
        indices = priorities.draw(fractions)[0]
        for each in (priorities, restored):
            each.set(indices, errors)
            each.remove(np.unique(indices)[:3])
            each.add(np.unique(indices)[:2])


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.kind)
def test_nothing_can_be_drawn_of_nothing(rule: PriorityRule) -> None:
    priorities = Priorities(rule, 10)
    with pytest.raises(ValueError, match="nothing to draw: there is no item"):
        priorities.draw(np.zeros(1))
    priorities.add(np.array([4]))
    assert priorities.draw(np.array([0.0, 0.99]))[0].tolist() == [4, 4]
    priorities.remove(np.array([4]))
    with pytest.raises(ValueError, match="nothing to draw"):
        priorities.draw(np.zeros(1))


@pytest.mark.parametrize("exponent", [-0.1, np.nan, np.inf])
@pytest.mark.parametrize("kind", ["proportional", "rank"])
def test_an_exponent_out_of_range_is_refused(kind: Literal["proportional", "rank"], exponent: float) -> None:
    with pytest.raises(UserError, match=rf"^priority_exponent={exponent}: .* use 0 or more$"):
        Priorities(PriorityRule(kind, exponent, 1.0), 10)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, np.nan])
def test_an_epsilon_of_nothing_is_refused(epsilon: float) -> None:
    with pytest.raises(UserError, match=rf"^priority_epsilon={epsilon}: .* use a number above 0$"):
        Priorities(PriorityRule("proportional", 0.6, epsilon), 10)
