"""The rings of a replay: how entries of slots follow one another in them, and which of them are there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from machina.buffers.columns import Positions
from machina.errors import UserError
from machina.types import Array, BoolArray, IntArray

COUNTERS = ("head", "oldest", "pending", "last_end", "slot", "next_start")


class Lanes:
    """Rings of ``length`` positions. Entries are counted since their lane began; entry c lies at c % length.

    All arrays are ``[lanes]`` int64.

    Args:
        lanes: number of rings.
        length: positions of each.
    """

    def __init__(self, lanes: int, length: int) -> None:
        self.length = length
        self.head = np.zeros(lanes, np.int64)
        """The entry that is written next. The tail lies there already: an entry whose action is not known yet."""
        self.oldest = np.zeros(lanes, np.int64)
        """The first entry that may be drawn; those before are overwritten, or needed by those that are there."""
        self.pending = np.zeros(lanes, np.int64)
        """The first entry of which it is not decided yet whether an item starts there."""
        self.last_end = np.full(lanes, -1, np.int64)
        """The newest entry before the head that ends an episode."""
        self.slot = np.full(lanes, -1, np.int64)
        """Whose steps came last; -1 where none did, or they were cleared."""
        self.next_start = np.full(lanes, -1, np.int64)
        """``Unroll.start`` of the unroll that would continue the lane; -1: none can."""

    def __len__(self) -> int:
        return len(self.head)

    def continued(self, lanes: IntArray, slots: IntArray, starts: IntArray) -> BoolArray:
        """``[k]``: whether an unroll that starts at ``starts`` follows at once what its lane holds."""
        follows: BoolArray = (self.slot[lanes] == slots) & (self.next_start[lanes] == starts) & (starts >= 0)
        return follows

    def run(self, lanes: IntArray, first: IntArray, entries: int) -> Positions:
        """``entries`` consecutive entries from ``first`` ``[k]`` on, in lanes ``lanes`` ``[k]``."""
        return self.at(lanes, first + np.arange(entries)[:, None])

    def at(self, lanes: IntArray, counts: IntArray) -> Positions:
        """Entries ``counts`` ``[n, k]``."""
        return Positions(lanes, counts, lanes * self.length + counts % self.length)

    def between(self, lanes: IntArray, begin: IntArray, end: IntArray) -> Positions:
        """All entries from ``begin`` to before ``end`` ``[k]``, as runs of one entry, lane by lane."""
        sizes = np.maximum(end - begin, 0)
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return self.at(np.repeat(lanes, sizes), (np.repeat(begin, sizes) + within)[None])

    def entries_at(self, flat: IntArray) -> tuple[IntArray, IntArray]:
        """The lanes and counts ``[k]`` of the entries that lie in rows ``flat`` ``[k]`` at present."""
        lanes, position = np.divmod(flat, self.length)
        head = self.head[lanes]
        return lanes, head - (head - position) % self.length

    def state(self) -> dict[str, Array]:
        """Everything as named arrays."""
        return {name: getattr(self, name).copy() for name in COUNTERS}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Continue from ``state``; raises ``UserError`` where it is of another number of lanes."""
        for name in COUNTERS:
            if state[name].shape != self.head.shape:
                raise UserError(
                    f"checkpoint: the replay has {len(state[name])} lanes, this run {len(self)}; "
                    "continue with as many environments as before"
                )
            getattr(self, name)[...] = state[name]
