"""Observations of gymnasium's spaces as named arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from machina.envs.observations import flat_observation, observation_specs
from machina.errors import UserError
from machina.nets.config import NetworkConfig
from machina.nets.reading import read
from machina.specs import ArraySpec, EnvSpec, discrete

LARGEST = float(np.finfo(np.float32).max)

NESTED = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (4, 5, 3), np.uint8),
        "robot": spaces.Dict(
            {"speed": spaces.Box(-1, 1, (2,), np.float64), "gears": spaces.Tuple((spaces.Discrete(3, start=-1),) * 2)}
        ),
        "switches": spaces.MultiDiscrete(np.array([[2, 3], [4, 5]])),
    }
)
"""Everything at once."""


def bits(size: int) -> spaces.Box:
    return spaces.Box(0, 1, (size,), np.bool_)  # type: ignore[arg-type]  # its annotations know floats only


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.Box(-np.inf, np.inf, (3,)), ArraySpec(shape=(3,), dtype="float32")),
        (spaces.Box(0, 255, (3,), np.uint8), ArraySpec(shape=(3,), dtype="uint8")),
        (spaces.Box(0, 1, (3,), np.uint8), ArraySpec(shape=(3,), dtype="uint8", high=1)),
        (spaces.Box(-2, 7, (3,), np.int64), ArraySpec(shape=(3,), dtype="int64", low=-2, high=7)),
        (spaces.Box(np.array([0.0, -3]), np.array([np.inf, 2])), ArraySpec(shape=(2,), dtype="float32", low=-3)),
        (spaces.Box(-LARGEST, LARGEST, (3,)), ArraySpec(shape=(3,), dtype="float32")),
        (bits(3), ArraySpec(shape=(3,), dtype="bool")),
        (spaces.MultiBinary(3), ArraySpec(shape=(3,), dtype="int8", low=0, high=1)),
        (spaces.Discrete(4, start=2), ArraySpec(shape=(4,), dtype="bool", choices=(4,), starts=(2,))),
        (
            spaces.MultiDiscrete([2, 3], start=[0, 5]),
            ArraySpec(shape=(5,), dtype="bool", choices=(2, 3), starts=(0, 5)),
        ),
    ],
)
def test_specs_of_single_spaces(space: spaces.Space[Any], expected: ArraySpec) -> None:
    assert observation_specs("e", space) == {"observation": expected}


def test_nested_spaces_are_flattened() -> None:
    shapes = {key: (spec.shape, spec.dtype) for key, spec in observation_specs("e", NESTED).items()}
    assert shapes == {
        "camera": ((4, 5, 3), "uint8"),
        "robot/gears/0": ((3,), "bool"),
        "robot/gears/1": ((3,), "bool"),
        "robot/speed": ((2,), "float32"),
        "switches": ((14,), "bool"),
    }


def test_a_batch_is_read_row_by_row_as_single_observations_are() -> None:
    """The batch is gymnasium's own of that space."""
    specs = observation_specs("e", NESTED)
    batch = batch_space(NESTED, 6)
    batch.seed(3)
    drawn: Any = batch.sample()
    read = flat_observation(specs, drawn)
    for slot in range(6):
        robot = drawn["robot"]
        single = {
            "camera": drawn["camera"][slot],
            "robot": {"speed": robot["speed"][slot], "gears": tuple(gear[slot] for gear in robot["gears"])},
            "switches": drawn["switches"][slot],
        }
        assert NESTED.contains(single)
        alone = flat_observation(specs, single, batched=False)
        assert alone.keys() == read.keys() == specs.keys()
        for key, spec in specs.items():
            assert np.array_equal(alone[key], read[key][slot])
            assert alone[key].shape == spec.shape
        assert np.array_equal(np.flatnonzero(alone["robot/gears/1"]) - 1, [single["robot"]["gears"][1]])
        ones = np.flatnonzero(alone["switches"]) - [0, 2, 5, 9]
        assert np.array_equal(ones, single["switches"].reshape(-1))


def test_arrays_are_neither_copied_nor_cast() -> None:
    pixels = np.zeros((2, 4, 5), np.uint8)
    assert flat_observation({"observation": ArraySpec(shape=(4, 5), dtype="uint8")}, pixels)["observation"] is pixels


@pytest.mark.parametrize(
    ("low", "high", "dtype", "largest"),
    [(0, 255, np.uint8, 255), (0, 65_535, np.uint16, 65_535), (0, 4095, np.uint16, 4095), (-128, 127, np.int8, 1)],
)
def test_pictures_are_divided_by_the_largest_bound_of_their_space(
    low: int, high: int, dtype: Any, largest: int
) -> None:
    observation = observation_specs("e", spaces.Box(low, high, (40, 40), dtype))
    spec = EnvSpec(name="e", tasks=("e",), observation=observation, action=discrete(2))
    assert read(spec, NetworkConfig()).scales == {"observation": 1 / largest}


@pytest.mark.parametrize(
    "mask",
    [
        spaces.Box(0, 1, (5,)),
        spaces.Box(0, 1, (5,), np.int8),
        bits(5),
        spaces.MultiBinary(5),
        spaces.MultiDiscrete([2] * 5),
    ],
)
def test_action_masks_of_every_kind(mask: spaces.Space[Any]) -> None:
    specs = observation_specs("e", spaces.Dict({"action_mask": mask, "seen": spaces.Box(0, 1, (2,))}))
    assert specs["action_mask"] == ArraySpec(shape=(5,), dtype="bool")
    allowed = np.array([[0, 1, 1, 0, 0]], mask.dtype)
    read = flat_observation(specs, {"action_mask": allowed, "seen": np.zeros((1, 2))})
    assert read["action_mask"].tolist() == [[0, 1, 1, 0, 0]]
    if mask.dtype == np.float32:
        with pytest.raises(ValueError, match="action_mask is neither 0 nor 1 everywhere"):
            flat_observation(specs, {"action_mask": allowed / 2, "seen": np.zeros((1, 2))})


def test_what_is_no_choice_or_missing_is_named() -> None:
    specs = observation_specs("e", spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(3)})}))
    for wrong in ([3], [-1], [0.5], [np.nan]):
        with pytest.raises(ValueError, match=r"'a/b' is .*, not one of 3 choices from 0 on"):
            flat_observation(specs, {"a": {"b": np.array(wrong)}})
    with pytest.raises(ValueError, match=r"'a/b' has shape \(1, 2\), it must hold 1 choices"):
        flat_observation(specs, {"a": {"b": np.zeros((1, 2), int)}})
    with pytest.raises(ValueError, match="'a/b' is missing, there is c"):
        flat_observation(specs, {"a": {"c": np.array([0])}})
    with pytest.raises(ValueError, match="'a/b' is missing, there is no dictionary"):
        flat_observation(specs, np.array([0]))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Text(5), "observation 'observation' is Text"),
        (
            spaces.Dict({"a": spaces.Dict({"b": spaces.Text(5)})}),
            "observation 'a/b' is Text.*--wrapper m",
        ),
        (spaces.Discrete(1_000_000), "at most 65,536 choices"),
        (
            spaces.Dict({"a/b": spaces.Discrete(2), "a": spaces.Dict({"b": spaces.Discrete(2)})}),
            "two observations are called 'a/b'",
        ),
        (spaces.Dict({"action_mask": spaces.MultiBinary(2)}), "holds nothing to see"),
    ],
)
def test_what_no_network_reads_is_refused_by_key(space: spaces.Space[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        observation_specs("e", space)
