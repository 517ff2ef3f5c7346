"""The tree of sums and maxima against running sums over a plain list."""

from __future__ import annotations

import numpy as np
import pytest

from machina.buffers.segment_tree import SegmentTree


@pytest.mark.parametrize("capacity", [1, 2, 15, 16, 17, 300, 5000])
def test_equals_plain_arrays_under_random_operations(capacity: int) -> None:
    random = np.random.default_rng(capacity)
    sums, largest, naive = SegmentTree(capacity, np.add), SegmentTree(capacity, np.maximum), np.zeros(capacity)
    for _ in range(60):
        indices = random.integers(0, capacity, random.integers(1, 40))
        values = random.integers(0, 4, len(indices)) * random.choice([0.0, 1.0, 1e-3])
        for index, value in zip(indices, values, strict=True):
            naive[index] = value
        for tree in (sums, largest):
            tree.set(indices, values)
            np.testing.assert_array_equal(tree.get(indices), naive[indices])
            np.testing.assert_array_equal(tree.numbers(), naive)
        assert sums.root == pytest.approx(naive.sum(), rel=1e-12)
        assert largest.root == naive.max()
        if naive.sum() > 0:
            # In the middle of an item, where no rounding decides.
            expected = np.flatnonzero(naive)
            middles = np.cumsum(naive)[expected] - naive[expected] / 2
            np.testing.assert_array_equal(sums.find(middles), expected)


def test_whole_numbers_are_found_from_their_first_mass_to_before_their_last() -> None:
    naive = np.random.default_rng(0).integers(0, 3, 1000)
    tree = SegmentTree(1000, np.add)
    tree.set(np.arange(1000), naive)
    masses = np.arange(naive.sum(), dtype=np.float64)
    np.testing.assert_array_equal(tree.find(masses), np.repeat(np.arange(1000), naive))


def test_an_item_of_no_mass_is_never_found() -> None:
    random = np.random.default_rng(1)
    tree = SegmentTree(777, np.add)
    masses = np.where(random.random(777) < 0.3, random.random(777) ** 8, 0.0)
    masses[-50:] = 0
    tree.set(np.arange(777), masses)
    found = np.zeros(777, np.int64)
    for _ in range(100):
        found += np.bincount(tree.find(random.random(100_000) * tree.root), minlength=777)
    assert found.sum() == 10**7
    assert found[masses == 0].sum() == 0
    # Exactly at the boundaries too, and where rounding puts a mass at or above the sum.
    boundaries = np.concatenate([np.cumsum(masses), [tree.root, np.nextafter(tree.root, 0), 2 * tree.root]])
    assert (masses[tree.find(np.minimum(boundaries, tree.root))] > 0).all()
    assert (masses[tree.find(boundaries)] > 0).all()


def test_nothing_is_found_among_zeros() -> None:
    with pytest.raises(ValueError, match="no item has a number above 0"):
        SegmentTree(3, np.add).find(np.zeros(1))


@pytest.mark.parametrize("capacity", [3, 16, 4321])
def test_a_loaded_tree_equals_the_grown_one_bit_for_bit(capacity: int) -> None:
    random = np.random.default_rng(2)
    grown, loaded = SegmentTree(capacity, np.add), SegmentTree(capacity, np.add)
    for _ in range(50):
        grown.set(random.integers(0, capacity, 30), random.random(30))
    loaded.load(grown.numbers())
    assert loaded.root == grown.root
    masses = random.random(1000) * grown.root
    np.testing.assert_array_equal(loaded.find(masses), grown.find(masses))
    grown.set(np.array([0]), np.array([0.5]))
    loaded.set(np.array([0]), np.array([0.5]))
    assert loaded.root == grown.root
