"""Random streams: what a slot gets depends on the seed, the slot and the count alone."""

from __future__ import annotations

import numpy as np
import pytest

from machina.streams import BLOCK, SlotStreams, Stream, env_seeds
from machina.types import Array


def test_every_purpose_has_the_number_that_saved_runs_have() -> None:
    numbers = {
        "ACTIONS": 1,
        "ENVIRONMENTS": 2,
        "EVALUATION": 3,
        "MATCH": 4,
        "RATING_GAMES": 5,
        "SEATING": 6,
        "MINIBATCHES": 7,
        "REPLAY": 8,
        "NOISE": 9,
        "RECORDING": 10,
    }
    assert {name: int(stream) for name, stream in Stream.__members__.items()} == numbers  # aliases are members
    assert len(set(numbers.values())) == len(numbers)


def numbers(seed: int, slots: list[int], count: int, drawn: int = 0) -> Array:
    streams = SlotStreams(seed, np.array(slots), (), drawn)
    return np.stack([streams.next() for _ in range(count)])


def test_a_slot_does_not_depend_on_its_group() -> None:
    count = 2 * BLOCK + 50
    together = numbers(3, [0, 1, 2, 7], count)
    np.testing.assert_array_equal(numbers(3, [7, 1], count), together[:, [3, 1]])
    np.testing.assert_array_equal(numbers(3, [2], count), together[:, [2]])


@pytest.mark.parametrize("drawn", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
def test_the_count_is_the_whole_state(drawn: int) -> None:
    whole = numbers(5, [0, 4], drawn + BLOCK + 3)
    np.testing.assert_array_equal(numbers(5, [0, 4], BLOCK + 3, drawn), whole[drawn:])
    streams = SlotStreams(5, np.array([0]), (), drawn)
    streams.next()
    assert streams.drawn == drawn + 1


def test_an_action_of_several_numbers_takes_as_many() -> None:
    streams = SlotStreams(2, np.array([3, 8]), (4,))
    drawn = np.stack([streams.next() for _ in range(500)])
    assert drawn.shape == (500, 2, 4)
    assert abs(np.corrcoef(drawn.reshape(500, 8).T) - np.eye(8)).max() < 0.2


def test_numbers_are_uniform_and_streams_differ() -> None:
    drawn = numbers(1, list(range(20)), 1000)
    assert drawn.dtype == np.float32
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 0.01
    assert len(np.unique(drawn[0])) == 20
    assert abs(np.corrcoef(drawn.T) - np.eye(20)).max() < 0.15
    assert not np.array_equal(drawn, numbers(2, list(range(20)), 1000))


def test_environment_seeds_differ_by_seed_slot_and_restart() -> None:
    seeds = [value for seed in range(4) for restarts in range(4) for value in env_seeds(seed, np.arange(64), restarts)]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 0
    assert max(seeds) < 2**31, "ALE takes 32-bit seeds and reads -1 as none"
    assert env_seeds(1, np.array([5]), 2) == env_seeds(1, np.arange(64), 2)[5:6]
