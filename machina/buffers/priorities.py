"""How often each item of a replay is drawn: in proportion to its error, by its rank, the largest first, or equally."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from machina.buffers.segment_tree import SegmentTree
from machina.errors import UserError
from machina.types import Array, BoolArray, IntArray, section

Numbers = npt.NDArray[np.float64]

RESORT_SHARE = 8
"""Ranks are sorted anew when an eighth of the items have changed since: then a million items cost 0.1 s each
125,000 changes."""


class PriorityRule(NamedTuple):
    """What an item's error makes of its chance to be drawn (Prioritized Experience Replay, arXiv 1511.05952)."""

    kind: Literal["proportional", "rank", "greedy", "none"]
    """proportional: P ~ (abs(error) + epsilon) ** exponent. rank: P ~ 1 / rank ** exponent, the largest error has
    rank 1. greedy: always those with the largest errors. none: equal chances."""
    exponent: float
    """alpha; 0 is equal chances. Read by ``proportional`` and ``rank``."""
    epsilon: float
    """Added to an absolute error, so that items without error are drawn too. Read by ``proportional``."""


class _Masses(Protocol):
    """The chances of those items that there are; errors are finite and not negative."""

    @property
    def total(self) -> float: ...

    def set(self, indices: IntArray, errors: Numbers) -> None: ...

    def add(self, indices: IntArray) -> None: ...

    def remove(self, indices: IntArray) -> None: ...

    def draw(self, fractions: Numbers) -> tuple[IntArray, Numbers]: ...

    def state(self) -> dict[str, Array]: ...

    def load_state(self, state: Mapping[str, Array]) -> None: ...


class _Proportional:
    """Masses in a tree of sums; another of maxima tells the largest that an item has at present."""

    def __init__(self, capacity: int, exponent: float, epsilon: float) -> None:
        self._exponent, self._epsilon = exponent, epsilon
        self._sums = SegmentTree(capacity, np.add)
        self._largest = SegmentTree(capacity, np.maximum)

    @property
    def total(self) -> float:
        return self._sums.root

    def set(self, indices: IntArray, errors: Numbers) -> None:
        self._write(indices, (errors + self._epsilon) ** self._exponent)

    def add(self, indices: IntArray) -> None:
        self._write(indices, self._largest.root or 1.0)

    def remove(self, indices: IntArray) -> None:
        self._write(indices, 0.0)

    def _write(self, indices: IntArray, masses: Numbers | float) -> None:
        self._sums.set(indices, masses)
        self._largest.set(indices, masses)

    def draw(self, fractions: Numbers) -> tuple[IntArray, Numbers]:
        indices = self._sums.find(fractions * self._sums.root)
        return indices, self._sums.get(indices)

    def state(self) -> dict[str, Array]:
        return {"masses": self._sums.numbers()}

    def load_state(self, state: Mapping[str, Array]) -> None:
        self._sums.load(state["masses"])
        self._largest.load(state["masses"])


NO_ITEM = -1.0
"""Stands for the error where there is no item."""


class _Errors:
    """The items' errors, infinite until the first is known, and the order in which items came."""

    def __init__(self, capacity: int) -> None:
        self.errors = np.full(capacity, NO_ITEM)
        self._order = np.zeros(capacity, np.int64)
        self._added = 0
        self.num_items = 0

    def set(self, indices: IntArray, errors: Numbers) -> None:
        new = indices[self.errors[indices] == NO_ITEM]
        self._number(new)
        self.num_items += len(np.unique(new))
        self.errors[indices] = errors

    def add(self, indices: IntArray) -> None:
        self._number(indices)
        self.num_items += int((self.errors[indices] == NO_ITEM).sum())
        self.errors[indices] = np.inf

    def _number(self, indices: IntArray) -> None:
        self._order[indices] = self._added + np.arange(len(indices))
        self._added += len(indices)

    def remove(self, indices: IntArray) -> None:
        self.num_items -= int((self.errors[indices] != NO_ITEM).sum())
        self.errors[indices] = NO_ITEM

    def sorted(self) -> IntArray:
        """All items, the largest error first, the oldest first among equals."""
        items = np.flatnonzero(self.errors != NO_ITEM)
        return items[np.lexsort((self._order[items], -self.errors[items]))]

    def largest(self, count: int) -> IntArray:
        """The first of ``sorted``; much faster where they are few."""
        if count >= len(self.errors):
            return self.sorted()
        bound = np.partition(self.errors, -count)[-count]
        if bound == NO_ITEM:
            return self.sorted()
        above = np.flatnonzero(self.errors > bound)
        equal = np.flatnonzero(self.errors == bound)
        missing = count - len(above)
        if missing < len(equal):
            equal = equal[np.argpartition(self._order[equal], missing)[:missing]]
        items = np.concatenate([above, equal])
        return items[np.lexsort((self._order[items], -self.errors[items]))]

    def state(self) -> dict[str, Array]:
        return {"errors": self.errors.copy(), "order": self._order.copy(), "added": np.array(self._added)}

    def load_state(self, state: Mapping[str, Array]) -> None:
        self.errors[...], self._order[...] = state["errors"], state["order"]
        self._added = int(state["added"])
        self.num_items = int((self.errors != NO_ITEM).sum())


class _Ranked:
    """Masses by rank in a tree of sums. Between two sorts an error gets the rank it would have had at the last one."""

    def __init__(self, capacity: int, exponent: float) -> None:
        self._exponent = exponent
        self._items = _Errors(capacity)
        self._sums = SegmentTree(capacity, np.add)
        self._ascending = np.zeros(0)
        """The errors at the last sort."""
        self._changes = 0

    @property
    def total(self) -> float:
        self._sort_when_due()
        return self._sums.root

    def set(self, indices: IntArray, errors: Numbers) -> None:
        self._items.set(indices, errors)
        larger = len(self._ascending) - np.searchsorted(self._ascending, errors, side="right")
        self._sums.set(indices, (larger + 1.0) ** -self._exponent)
        self._changes += len(indices)

    def add(self, indices: IntArray) -> None:
        self._items.add(indices)
        self._sums.set(indices, 1.0)
        self._changes += len(indices)

    def remove(self, indices: IntArray) -> None:
        self._items.remove(indices)
        self._sums.set(indices, 0.0)
        self._changes += len(indices)

    def draw(self, fractions: Numbers) -> tuple[IntArray, Numbers]:
        self._sort_when_due()
        indices = self._sums.find(fractions * self._sums.root)
        return indices, self._sums.get(indices)

    def _sort_when_due(self) -> None:
        if self._changes == 0 or self._changes * RESORT_SHARE < len(self._ascending):
            return
        items = self._items.sorted()
        masses = np.zeros(len(self._items.errors))
        masses[items] = np.arange(1.0, len(items) + 1) ** -self._exponent
        self._sums.load(masses)
        self._ascending = self._items.errors[items[::-1]]
        self._changes = 0

    def state(self) -> dict[str, Array]:
        # As long as the store, whatever was sorted last: a saved state of other sizes is of another store.
        ascending = np.full(len(self._items.errors), np.inf)
        ascending[: len(self._ascending)] = self._ascending
        counts = {"sorted": np.array(len(self._ascending)), "changes": np.array(self._changes)}
        return self._items.state() | {"masses": self._sums.numbers(), "ascending": ascending} | counts

    def load_state(self, state: Mapping[str, Array]) -> None:
        self._items.load_state(state)
        self._sums.load(state["masses"])
        self._ascending, self._changes = state["ascending"][: int(state["sorted"])].copy(), int(state["changes"])


class _Greedy:
    """The items with the largest errors, each with mass 1 of as many as there are: importance weights are 1."""

    def __init__(self, capacity: int) -> None:
        self._items = _Errors(capacity)

    @property
    def total(self) -> float:
        return float(self._items.num_items)

    def set(self, indices: IntArray, errors: Numbers) -> None:
        self._items.set(indices, errors)

    def add(self, indices: IntArray) -> None:
        self._items.add(indices)

    def remove(self, indices: IntArray) -> None:
        self._items.remove(indices)

    def draw(self, fractions: Numbers) -> tuple[IntArray, Numbers]:
        """Items repeat, from the first, where fewer are there than are asked for."""
        largest = self._items.largest(len(fractions))
        return largest[np.arange(len(fractions)) % len(largest)], np.ones(len(fractions))

    def state(self) -> dict[str, Array]:
        return self._items.state()

    def load_state(self, state: Mapping[str, Array]) -> None:
        self._items.load_state(state)


class Priorities:
    """The chances of the items that a replay holds; an item is a number below ``capacity``.

    The chance of an item is its mass divided by ``total``. Of ``greedy`` there are no chances: every mass is 1.

    Args:
        rule: see ``PriorityRule``.
        capacity: most items.

    Raises:
        UserError: the rule's exponent or epsilon is out of range.
    """

    def __init__(self, rule: PriorityRule, capacity: int) -> None:
        _check_rule(rule)
        self._is_item: BoolArray = np.zeros(capacity, np.bool_)
        self.num_items = 0
        self._masses = _make_masses(rule, capacity)

    @property
    def total(self) -> float:
        """The sum of all masses."""
        return self._masses.total

    def has(self, indices: IntArray) -> BoolArray:
        """``[k]``: whether each of ``indices`` ``[k]`` is an item at present."""
        return self._is_item[indices]

    def set(self, indices: IntArray, errors: Array) -> None:
        """Note the errors ``[k]``, of either sign, of ``indices`` ``[k]``, which are items from now on.

        Those that are not finite are ignored. The last counts where an item is repeated.
        """
        magnitudes = np.abs(errors.astype(np.float64))
        finite = np.isfinite(magnitudes)
        # An item that came twice would be counted, and numbered, twice: keep its last error.
        kept, last = np.unique(indices[finite][::-1], return_index=True)
        if len(kept):
            self._masses.set(kept, magnitudes[finite][::-1][last])
            self._count(kept)

    def add(self, indices: IntArray) -> None:
        """Make new items of ``indices`` ``[k]``, no two equal; they get the largest mass that an item has at present.

        It is 1 where there is no item, and by rank, where new items come first.
        """
        if len(indices):
            self._masses.add(indices)
            self._count(indices)

    def _count(self, indices: IntArray) -> None:
        self.num_items += int((~self._is_item[indices]).sum())
        self._is_item[indices] = True

    def remove(self, indices: IntArray) -> None:
        """Forget items ``indices`` ``[k]``, no two equal."""
        if len(indices):
            self.num_items -= int(self._is_item[indices].sum())
            self._is_item[indices] = False
            self._masses.remove(indices)

    def draw(self, fractions: Numbers) -> tuple[IntArray, Numbers]:
        """Items ``[k]`` and their masses ``[k]``.

        Args:
            fractions: ``[k]`` in [0, 1), of the total mass: where it falls among the items, in the order of their
                numbers.

        Raises:
            ValueError: there is no item.
        """
        if self.num_items == 0:
            raise ValueError("nothing to draw: there is no item")
        return self._masses.draw(fractions)

    def state(self) -> dict[str, Array]:
        """Everything as named arrays."""
        own = {"is_item": self._is_item.copy()}
        return own | {f"masses/{name}": array for name, array in self._masses.state().items()}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Continue from what ``state`` gave under the same rule and capacity; draws are then the same bit for bit."""
        self._is_item[...] = state["is_item"]
        self.num_items = int(self._is_item.sum())
        self._masses.load_state(section(state, "masses/"))


def _make_masses(rule: PriorityRule, capacity: int) -> _Masses:
    if rule.kind == "rank":
        return _Ranked(capacity, rule.exponent)
    if rule.kind == "greedy":
        return _Greedy(capacity)
    return _Proportional(capacity, 0.0 if rule.kind == "none" else rule.exponent, rule.epsilon)


def _check_rule(rule: PriorityRule) -> None:
    if not (math.isfinite(rule.exponent) and rule.exponent >= 0):
        raise UserError(f"priority_exponent={rule.exponent}: priorities need a number; use 0 or more")
    if rule.kind == "proportional" and not (math.isfinite(rule.epsilon) and rule.epsilon > 0):
        raise UserError(
            f"priority_epsilon={rule.epsilon}: items without error would never be drawn again; use a number above 0"
        )
