"""Actions of policies and of gymnasium's spaces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from machina.actions import checked_actions, native_actions, policy_actions, random_actions, without_choice
from machina.envs.action_spaces import action_spec
from machina.envs.builders import parse_environment
from machina.envs.config import GymnasiumConfig
from machina.errors import UserError
from machina.specs import discrete

LARGEST = float(np.finfo(np.float32).max)


def box(low: Any, high: Any, shape: tuple[int, ...] = (2,)) -> spaces.Box:
    return spaces.Box(low, high, shape, np.float32)


def test_specs_of_spaces() -> None:
    assert action_spec("e", spaces.Discrete(3)) == discrete(3)
    several = action_spec("e", spaces.MultiDiscrete([3, 2]))
    assert (several.kind, several.choices, several.shape, several.num_parameters) == ("multi_discrete", (3, 2), (2,), 5)
    numbers = action_spec("e", box(-2.0, 4.0, (3, 1)))
    assert (numbers.kind, numbers.shape, numbers.dtype, numbers.num_parameters) == ("continuous", (3,), "float32", 6)
    cut = action_spec("e", box(-2.0, 4.0), bins=5)
    assert (cut.kind, cut.choices) == ("multi_discrete", (5, 5))


@pytest.mark.parametrize(
    ("space", "bins", "message"),
    [
        (spaces.Discrete(3, start=1), None, "is neither Discrete nor MultiDiscrete from 0"),
        (spaces.MultiDiscrete([3, 2], start=[0, 1]), None, "is neither Discrete nor MultiDiscrete from 0"),
        (spaces.MultiBinary(2), None, "is neither Discrete"),
        (spaces.Box(0, 5, (2,), np.int64), None, "is neither Discrete"),
        (spaces.Box(0, 5, (2,), np.int64), 5, "action_bins=5 cuts real numbers"),
        (spaces.Discrete(3), 5, "action_bins=5 cuts real numbers"),
        (box(-np.inf, np.inf), 5, "action_bins=5 needs bounded actions.*leave it out"),
        (box(-LARGEST, LARGEST), 5, "action_bins=5 needs bounded actions"),
    ],
)
def test_what_no_policy_answers_is_refused(space: spaces.Space[Any], bins: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        action_spec("e", space, bins)


def test_numbers_are_scaled_and_clipped() -> None:
    spec = action_spec("e", box(np.array([-2, 0], np.float32), np.array([4, 1], np.float32)))
    got = native_actions(spec, np.array([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0], [-9.0, 9.0]], np.float32))
    np.testing.assert_allclose(got, np.array([[-2, 0], [4, 1], [1, 0.5], [-2, 1]]))
    assert got.dtype == np.float32


def test_numbers_without_bounds_pass() -> None:
    spec = action_spec("e", box(np.array([-np.inf, -1], np.float32), np.array([np.inf, 3], np.float32)))
    np.testing.assert_allclose(native_actions(spec, np.array([[-70.0, -70.0]], np.float32)), [[-70, -1]])


@pytest.mark.parametrize("bins", [None, 11])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("low", "high"), [(-1, 1), (0.1, 0.3), (-0.7, 1.1), (-1e3, 1.7e4), (0, 0)])
def test_bounded_actions_lie_in_their_space_and_reach_both_ends(
    low: float, high: float, dtype: type[np.floating[Any]], bins: int | None
) -> None:
    space = spaces.Box(dtype(low), dtype(high), (2,), dtype)
    spec = action_spec("e", space, bins)
    drawn = random_actions(spec, 500, np.random.default_rng(0)) * (3 if bins is None else 1)
    drawn[0], drawn[1] = (0, bins - 1) if bins else (-1, 1)
    got = native_actions(spec, drawn)
    assert got.dtype == dtype
    assert all(space.contains(row) for row in got)
    assert (got[0] == space.low).all()
    assert (got[1] == space.high).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, np.inf, [0, 0, 0.5, 70]),
        (-np.inf, 1, [-70, -0.5, 0.5, 1]),
        (-np.inf, np.inf, [-70, -0.5, 0.5, 70]),
        ("least", "greatest", [-70, -0.5, 0.5, 70]),
        (-0.25, "greatest", [-0.25, -0.25, 0.5, 70]),
        ("least", 0.25, [-70, -0.5, 0.25, 0.25]),
    ],
)
def test_single_bounds_hold_and_the_largest_floats_are_none(
    low: Any, high: Any, expected: list[float], dtype: type[np.floating[Any]]
) -> None:
    ends = {"least": np.finfo(dtype).min, "greatest": np.finfo(dtype).max}
    space = spaces.Box(ends.get(low, low), ends.get(high, high), (1,), dtype)
    got = native_actions(action_spec("e", space), np.array([[-70], [-0.5], [0.5], [70]], np.float32))
    assert got[:, 0].tolist() == expected
    assert got.dtype == dtype


def test_numbers_that_a_short_dtype_does_not_hold_stay_finite() -> None:
    spec = action_spec("e", spaces.Box(-np.inf, np.inf, (1,), np.float16))
    got = native_actions(spec, np.array([[-1e6], [1e6]], np.float32))
    assert got.tolist() == [[-65504], [65504]]


def test_infinite_numbers_come_to_the_bounds() -> None:
    """Also where both bounds are above zero: there infinities of both signs would meet in a sum."""
    spec = action_spec("e", box(1.0, 3.0))
    actions = np.array([[np.inf, -np.inf], [LARGEST, -LARGEST]], np.float32)
    assert native_actions(spec, actions).tolist() == [[3.0, 1.0], [3.0, 1.0]]


def test_a_mixed_space_is_scaled_where_both_bounds_are_finite() -> None:
    low, high = np.array([0, -2, -np.inf], np.float32), np.array([np.inf, 4, 1], np.float32)
    got = native_actions(action_spec("e", spaces.Box(low, high)), np.array([[-3, 0.5, 2], [2, 9, -8]], np.float32))
    assert got.tolist() == [[0, 2.5, 1], [2, 4, -8]]


def test_bins_are_even_and_reach_both_ends() -> None:
    spec = action_spec("e", box(-2.0, 4.0), bins=4)
    np.testing.assert_allclose(native_actions(spec, np.array([[0, 1], [2, 3]])), [[-2, 0], [2, 4]])


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.MultiDiscrete([3, 2]), box(-1.0, 1.0)])
def test_wrong_actions_are_refused(space: spaces.Space[Any]) -> None:
    spec = action_spec("e", space)
    good = random_actions(spec, 7, np.random.default_rng(0))
    assert checked_actions(spec, good, 7) is good
    bad = good.copy()
    bad.flat[3] = np.nan if spec.kind == "continuous" else 3
    for wrong, count in ((bad, 7), (good, 6)):
        with pytest.raises(ValueError, match="actions must be"):
            checked_actions(spec, wrong, count)


def test_random_actions_keep_to_the_mask() -> None:
    allowed = np.array([[True, False, True], [False, True, False]])
    drawn = np.stack([random_actions(discrete(3), 2, np.random.default_rng(i), allowed) for i in range(50)])
    assert set(drawn[:, 0]) == {0, 2}
    assert set(drawn[:, 1]) == {1}
    several = action_spec("e", spaces.MultiDiscrete([3, 1, 2]))
    allowed = np.array([[True, False, True, True, False, True], [False, True, False, True, True, True]])
    pairs = np.stack([random_actions(several, 2, np.random.default_rng(i), allowed) for i in range(50)])
    assert set(map(tuple, pairs[:, 0].tolist())) == {(0, 0, 1), (2, 0, 1)}
    assert set(map(tuple, pairs[:, 1].tolist())) == {(1, 0, 0), (1, 0, 1)}
    numbers = action_spec("e", box(-1.0, 1.0))
    assert random_actions(numbers, 2, np.random.default_rng(0), allowed).dtype == np.float32, "a mask is of choices"


def test_who_has_no_choice() -> None:
    """In one component at least, where each has a choice of its own."""
    spec = action_spec("e", spaces.MultiDiscrete([2, 1, 3]))
    masks = np.array([[bit == "1" for bit in f"{number:06b}"] for number in range(64)])
    expected = [not (any(mask[:2]) and mask[2] and any(mask[3:])) for mask in masks]
    assert without_choice(spec, masks).tolist() == expected
    assert without_choice(discrete(6), masks).tolist() == [True] + [False] * 63


@pytest.mark.parametrize("bins", [None, 7])
def test_a_continuous_environment_steps(bins: int | None) -> None:
    factory = parse_environment("Pendulum-v1", GymnasiumConfig(action_bins=bins))
    env = factory.make([0, 0, 0])
    env.reset([1, 2, 3])
    generator = np.random.default_rng(0)
    for _ in range(5):
        entry = env.step(random_actions(factory.spec.action, 3, generator))
    assert entry.reward.shape == (3,)
    assert (entry.reward < 0).all()
    env.close()


def test_random_actions_of_every_kind() -> None:
    generator = np.random.default_rng(0)
    numbers = random_actions(action_spec("e", box(-2.0, 2.0)), 400, generator)
    assert (numbers.dtype.name, numbers.shape) == ("float32", (400, 2))
    assert abs(float(numbers.std()) - 1) < 0.1
    single = random_actions(discrete(3), 60, generator)
    assert (single.shape, set(single.tolist())) == ((60,), {0, 1, 2})
    several = random_actions(action_spec("e", spaces.MultiDiscrete([3, 2])), 60, generator)
    assert [set(several[:, part].tolist()) for part in range(2)] == [{0, 1, 2}, {0, 1}]


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(5),
        spaces.MultiDiscrete([3, 2]),
        box(np.array([-2, 0], np.float32), np.array([4, 0.25], np.float32)),
        box(-np.inf, np.inf),
        box(np.array([-np.inf, -1], np.float32), np.array([1, 1], np.float32)),
        spaces.Box(-3.0, 1.0, (2, 2), np.float64),
    ],
)
@pytest.mark.parametrize("bins", [None, 7])
def test_actions_of_the_environment_become_the_policy_s(space: spaces.Space[Any], bins: int | None) -> None:
    """The environment then takes the same again: choices exactly, cut numbers to the nearest choice."""
    bounded = isinstance(space, spaces.Box) and space.is_bounded()
    spec = action_spec("e", space, bins if bounded else None)
    space.seed(4)
    native = np.stack([space.sample() for _ in range(50)])
    actions = policy_actions(spec, native)
    assert (actions.shape, actions.dtype.name) == ((50, *spec.shape), spec.dtype)
    again = native_actions(spec, actions).reshape(native.shape)
    np.testing.assert_allclose(again, native, rtol=1e-6, atol=0.5 if bounded and bins else 1e-6)


@pytest.mark.parametrize(
    ("native", "said"),
    [
        ([[0, 1], [1, 2]], "action 2 is none of 3 x 2 choices"),
        ([[-1, 1]], "action -1 is none of 3 x 2 choices"),
        ([[0, 1, 1]], r"actions are int64\[1, 3\], expected \[2\] each"),
        ([[0.0, 1.0]], "actions are float64, expected whole numbers"),
        ([["a", "b"]], "actions are <U1"),
    ],
)
def test_what_is_no_action_of_the_environment_is_refused(native: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        policy_actions(action_spec("e", spaces.MultiDiscrete([3, 2])), np.array(native))
    with pytest.raises(ValueError, match="an action is not finite"):
        policy_actions(action_spec("e", box(-np.inf, np.inf)), np.full((1, 2), np.nan))
