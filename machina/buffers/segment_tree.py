"""A tree over the numbers of many items: their sum or their largest at once, and the item where a running sum lies."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from machina.types import Array, IntArray

FANOUT = 16
"""Children of a node; numpy handles a row of 16 as fast as a pair, and the tree is four times flatter."""

Numbers = npt.NDArray[np.float64]


class SegmentTree:
    """Numbers of items ``0`` to ``capacity - 1``, all 0 at first, with what ``combine`` makes of them.

    Every method takes arrays of items. An inner node is always made afresh from all of its children: no error piles up,
    and equal numbers make equal trees whatever was in them before.

    Args:
        capacity: number of items.
        combine: ``np.add``, or ``np.maximum`` of numbers that are not negative.
    """

    def __init__(self, capacity: int, combine: np.ufunc) -> None:
        self._combine = combine
        self._capacity = capacity
        self._levels: list[Numbers] = []
        """From the items up to the root, each but the root's padded with zeros to whole rows of children."""
        size = capacity
        while size > 1 or not self._levels:
            size = -(-size // FANOUT)
            self._levels.append(np.zeros(size * FANOUT))
        self._levels.append(np.zeros(1))

    @property
    def root(self) -> float:
        """The sum, or the largest, of all numbers."""
        return float(self._levels[-1][0])

    def get(self, indices: IntArray) -> Numbers:
        """``[k]``: the numbers of items ``indices`` ``[k]``."""
        return self._levels[0][indices]

    def set(self, indices: IntArray, values: Array | float) -> None:
        """Give items ``indices`` ``[k]`` the numbers ``values`` ``[k]``; the last counts where an item is repeated."""
        self._levels[0][indices] = values
        nodes = indices
        for children, parents in zip(self._levels, self._levels[1:], strict=False):
            rows = children.reshape(-1, FANOUT)
            nodes = nodes // FANOUT
            # A node that several items share is made several times: finding those that are equal takes longer.
            if len(nodes) < len(rows):
                parents[nodes] = self._combine.reduce(rows[nodes], axis=1)
            else:
                parents[: len(rows)] = self._combine.reduce(rows, axis=1)

    def find(self, masses: Numbers) -> IntArray:
        """``[k]``: for each mass the item with which the running sum of the numbers exceeds it; only of a sum.

        An item whose number is 0 is never found, not even where rounding puts a mass at or above the sum.

        Args:
            masses: ``[k]``, from 0 to the sum.

        Raises:
            ValueError: all numbers are 0.
        """
        if self.root <= 0:
            raise ValueError("no item has a number above 0: nothing can be found")
        rest, nodes = masses.copy(), np.zeros(len(masses), np.int64)
        for level in reversed(self._levels[:-1]):
            children = level.reshape(-1, FANOUT)[nodes]
            sums = np.cumsum(children, axis=1)
            chosen = (sums <= rest[:, None]).sum(axis=1)
            beyond = np.flatnonzero(chosen == FANOUT)
            # The running sum is rounded otherwise than the node's own: what falls off its end is the last child's.
            chosen[beyond] = FANOUT - 1 - np.argmax(children[beyond, ::-1] > 0, axis=1)
            before = np.take_along_axis(sums, np.maximum(chosen - 1, 0)[:, None], axis=1)[:, 0]
            rest -= np.where(chosen > 0, before, 0.0)
            nodes = nodes * FANOUT + chosen
        return nodes

    def numbers(self) -> Numbers:
        """``[capacity]``: a copy of all items' numbers."""
        return self._levels[0][: self._capacity].copy()

    def load(self, numbers: Numbers) -> None:
        """Give all items their numbers ``[capacity]``."""
        self._levels[0][: self._capacity] = numbers
        for children, parents in zip(self._levels, self._levels[1:], strict=False):
            combined = self._combine.reduce(children.reshape(-1, FANOUT), axis=1)
            parents[: len(combined)] = combined
