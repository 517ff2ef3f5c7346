"""An answer is what its space declares, or a fault that names the array."""

import re
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from misdeclared_tasks import MESSAGES, misdeclared

from machina.config import EnvConfig
from machina.envs.builders import ENVIRONMENTS, parse_environment, register_environment
from machina.envs.config import GymnasiumConfig
from machina.envs.declared import as_declared, as_flag, as_number
from machina.errors import EnvironmentFaultError

BYTES = spaces.Box(0, 255, (2,), np.uint8)
FLOATS = spaces.Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize("processes", [True, False])
@pytest.mark.parametrize("fault", MESSAGES)
def test_a_step_that_breaks_its_declaration_is_a_fault(fault: str, processes: bool) -> None:
    name = f"misdeclared_tasks:Mis{fault}-v0"
    env = parse_environment(name, GymnasiumConfig(processes=processes)).make([0, 0])
    try:
        env.reset([1, 2])
        with pytest.raises(EnvironmentFaultError) as caught:
            env.step(np.zeros(2, np.int64))
        assert str(caught.value) == f"environment {name!r}: {MESSAGES[fault]}"
    finally:
        env.close()


def test_an_environment_vectorized_by_itself_is_checked() -> None:
    env = parse_environment("misdeclared_tasks:Counted-v0", GymnasiumConfig()).make([0, 0])
    env.reset([1, 2])
    with pytest.raises(EnvironmentFaultError, match=r"observation holds 0\.5 \(float64\), its space is of uint8"):
        env.step(np.zeros(2, np.int64))


def test_the_single_environments_of_a_users_vector_environment_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("machina.envs.builders.ENVIRONMENTS", dict(ENVIRONMENTS))
    register_environment("misdeclared", misdeclared)
    env = parse_environment("misdeclared", EnvConfig()).make([0, 0])
    env.reset([1, 2])
    with pytest.raises(EnvironmentFaultError, match=r"'misdeclared': observation holds 0\.8 \(float64\)"):
        env.step(np.zeros(2, np.int64))


@pytest.mark.parametrize(
    ("space", "value", "expected"),
    [
        (BYTES, [1, 2], np.array([1, 2], np.uint8)),
        (BYTES, np.array([1.0, 255.0]), np.array([1, 255], np.uint8)),
        (BYTES, np.array([True, False]), np.array([1, 0], np.uint8)),
        (FLOATS, np.array([0.1, np.nan]), np.array([np.float32(0.1), np.nan], np.float32)),
        (FLOATS, np.array([np.inf, 2]), np.array([np.inf, 2], np.float32)),
        (FLOATS, (1, 0), np.array([1, 0], np.float32)),
        (spaces.Box(0, 1, (), np.float32), 0.5, np.array(0.5, np.float32)),
        (spaces.Discrete(3, start=1), 3, np.int64(3)),
        (spaces.Discrete(3), np.array(2.0), np.int64(2)),
        (spaces.MultiDiscrete([2, 3]), [1, 2], np.array([1, 2])),
        (spaces.MultiBinary(2), [True, False], np.array([1, 0], np.int8)),
        (spaces.Tuple([spaces.Discrete(2), FLOATS]), [1, [0, 1]], (np.int64(1), np.array([0, 1], np.float32))),
        (spaces.Dict({"a": BYTES}), {"a": [1, 2]}, {"a": np.array([1, 2], np.uint8)}),
        (spaces.Text(5), "north", "north"),
    ],
)
def test_what_loses_nothing_is_cast(space: spaces.Space[Any], value: Any, expected: Any) -> None:
    result = as_declared(space, value, "observation")
    assert type(result) is type(expected)
    np.testing.assert_equal(result, expected)
    assert getattr(result, "dtype", None) == getattr(expected, "dtype", None)


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (BYTES, [0, 256], "it holds 256 (int64), its space is of uint8"),
        (BYTES, [0, 0.5], "it holds 0.5 (float64), its space is of uint8"),
        (BYTES, ["0", "1"], "it is not an array of numbers, it is ['0', '1']"),
        (BYTES, None, "it is not an array of numbers, it is None"),
        (BYTES, {"a": 1}, "it is not an array of numbers, it is {'a': 1}"),
        (BYTES, [1j, 0], "it is not an array of numbers, it is [1j, 0]"),
        (BYTES, 7, "it has shape (), its space has (2,)"),
        (FLOATS, [0.0, 1e39], "it holds 1e+39 (float64), its space is of float32"),
        (FLOATS, [2**54 - 1, 0], "it holds 18014398509481983 (int64), its space is of float32"),
        (FLOATS, [2**24 + 1, 0], "it holds 16777217 (int64), its space is of float32"),
        (spaces.Box(0, 2**63, (1,), np.uint64), [-1], "it holds -1 (int64), its space is of uint64"),
        (spaces.Box(-5, 5, (1,), np.int64), [2.0**70], f"it holds {2.0**70} (float64), its space is of int64"),
        (spaces.Discrete(3, start=1), 0, "it holds 0, outside its space Discrete(3, start=1)"),
        (spaces.Discrete(3), 3, "it holds 3, outside its space Discrete(3)"),
        (spaces.Discrete(3), [1], "it has shape (1,), its space has ()"),
        (spaces.MultiDiscrete([2, 3]), [1, 3], "it holds 3, outside its space MultiDiscrete([2 3])"),
        (spaces.MultiBinary(2), [1, -1], "it holds -1, outside its space MultiBinary(2)"),
        (spaces.Dict({"a": BYTES}), [1, 2], "it is a list, its space is a Dict"),
        (spaces.Dict({"a": BYTES}), {"b": [1, 2]}, "it has keys ['b'], its space has ['a']"),
        (spaces.Dict({"a": spaces.Dict({"b": BYTES})}), {"a": {"b": 1}}, "it 'a' 'b' has shape (), its space has (2,)"),
        (spaces.Tuple([BYTES]), ([1, 2], 3), "it is 2 parts, its space is a Tuple of 1"),
        (spaces.Tuple([BYTES]), ([1],), "it [0] has shape (1,), its space has (2,)"),
    ],
)
def test_what_does_not_fit_is_named(space: spaces.Space[Any], value: Any, message: str) -> None:
    with pytest.raises(EnvironmentFaultError, match=f"^{re.escape(message)}$"):
        as_declared(space, value, "it")


def test_parts_of_differing_shapes_are_no_array() -> None:
    with pytest.raises(EnvironmentFaultError, match=r"^it is not an array: ValueError: "):
        as_declared(BYTES, [[1, 2], [3]], "it")


def test_what_fits_is_not_copied() -> None:
    value = np.zeros(2, np.float32)
    assert as_declared(FLOATS, value, "observation") is value


@settings(deadline=None, max_examples=500)
@given(
    # What trains in this process may flush subnormal numbers to zero.
    arrays.arrays(
        st.sampled_from([np.int8, np.int64, np.uint64, np.float16, np.float64]), 4, elements={"allow_subnormal": False}
    ),
    st.sampled_from([np.bool_, np.int8, np.uint8, np.int32, np.int64, np.uint64, np.float32, np.float64]),
)
def test_an_array_keeps_its_values_or_is_refused(value: Any, dtype: Any) -> None:
    space = spaces.Box(*((0, 1) if dtype is np.bool_ else (0, 100)), (4,), dtype)
    # Python's numbers compare exactly, whatever their type and size.
    wanted = value.tolist()
    try:
        result = as_declared(space, value, "observation")
    except EnvironmentFaultError:
        with np.errstate(all="ignore"):
            cast = value.astype(dtype).tolist()
        assert any(a != b for a, b in zip(cast, wanted, strict=True))
        return
    assert result.dtype == dtype
    rounds = value.dtype.kind == "f" or np.dtype(dtype) == np.float64
    if np.issubdtype(dtype, np.floating) and rounds:
        np.testing.assert_allclose(result.astype(np.float64), value.astype(np.float64), rtol=1e-7, atol=1e-44)
    else:
        assert result.tolist() == wanted


@pytest.mark.parametrize("space", [BYTES, spaces.Discrete(4), spaces.MultiBinary(3), spaces.MultiDiscrete([2, 3])])
def test_batches_are_held_against_the_batched_space(space: spaces.Space[Any]) -> None:
    batch = batch_space(space, 3)
    value = batch.sample()
    assert np.array_equal(as_declared(batch, value, "observation"), value)
    with pytest.raises(EnvironmentFaultError, match="has shape"):
        as_declared(batch, value[:2], "observation")


def test_rewards_and_ends() -> None:
    assert as_number(1, "reward") == as_number(np.float32(1), "reward") == as_number(np.array(1), "reward") == 1.0
    for wrong in ([1.0], None, "1", 1j):
        with pytest.raises(EnvironmentFaultError, match="reward "):
            as_number(wrong, "reward")
    assert [as_flag(flag, "terminated") for flag in (True, np.False_, 1, np.array(0))] == [True, False, True, False]
    for no_flag in ([True], None, "yes", 2, np.nan):
        with pytest.raises(EnvironmentFaultError, match="terminated "):
            as_flag(no_flag, "terminated")
