"""The best episodes so far: which ones are kept, by their undiscounted return."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from machina.buffers.replay_store import ReplayStore
from machina.buffers.unrolls import behind_burn_in, from_arrays, slice_slots, to_arrays
from machina.types import NO_ACTION, Array, IntArray, Unroll, combined, section

Piece = Unroll[Array]
"""Consecutive entries of one slot, ``[T' + 1, 1, ...]``, of one episode."""


class BestEpisodes:
    """Collects every slot's episode under way, and keeps the best whole ones in a store, a lane each.

    An episode as good as the worst one kept takes the place of the oldest of the worst. Longer ones than a lane, and
    those whose beginning was not seen, as after an environment was replaced, are not kept.

    Args:
        store: for episodes alone.
        burn_in: see ``Layout``.
        lanes: episodes that are kept.
        longest: env steps of the longest one.
    """

    def __init__(self, store: ReplayStore, burn_in: int, lanes: int, longest: int) -> None:
        self._store = store
        self._burn_in = burn_in
        self._longest = longest
        self._returns = np.full(lanes, -np.inf)
        self._since = np.zeros(lanes, np.int64)
        """Number of the episode in each lane, counted as they came in."""
        self._kept = 0
        self._open: dict[int, list[Piece]] = {}
        """By slot; a slot whose episode can't be kept is absent."""
        self._expected: dict[int, int] = {}
        """By slot: ``Unroll.start`` of the unroll that continues it."""

    @property
    def returns(self) -> Array:
        """Of the episodes kept, the best first."""
        return np.sort(self._returns[np.isfinite(self._returns)])[::-1]

    def put(self, unroll: Unroll[Array]) -> None:
        """Take in an unroll of B slots."""
        for column in range(len(unroll.slot)):
            self._put_slot(slice_slots(unroll, column, column + 1))

    def _put_slot(self, unroll: Unroll[Array]) -> None:
        slot, start, length = int(unroll.slot[0]), int(unroll.start[0]), len(unroll.reward) - 1
        if self._expected.get(slot) != start:
            self._open.pop(slot, None)
        self._expected[slot] = start + length
        for first, last in _episodes(unroll):
            opens = bool(unroll.first[0]) if first == 0 else True
            if opens:
                self._open[slot] = []
            if slot not in self._open:
                continue
            if last > first:
                self._open[slot].append(_piece(unroll, first, last))
            if sum(len(piece.reward) - 1 for piece in self._open[slot]) > self._longest:
                del self._open[slot]
            elif unroll.terminated[last, 0] or unroll.truncated[last, 0]:
                self._keep(self._open.pop(slot))

    def _keep(self, pieces: list[Piece]) -> None:
        if not pieces:
            return
        total = sum(float(piece.reward[1:].sum(dtype=np.float64)) for piece in pieces)
        lane = int(np.lexsort((self._since, self._returns))[0])
        if total < self._returns[lane]:
            return
        self._kept += 1
        self._returns[lane], self._since[lane] = total, self._kept
        self._store.clear(lane)
        for piece in behind_burn_in(pieces, self._burn_in):
            self._store.put(piece._replace(slot=np.array([lane], np.int64)))
        self._store.end(np.array([lane]))

    def state(self) -> dict[str, Array]:
        """Which episodes are kept, and those under way, as named arrays."""
        state: dict[str, Array] = {
            "returns": self._returns,
            "since": self._since,
            "kept": np.array([self._kept]),
            "expected": _pairs(self._expected),
            "open": np.array(sorted(self._open), np.int64),
        }
        for slot, pieces in self._open.items():
            for index, piece in enumerate(pieces):
                state |= {f"{slot}/{index}/{key}": array for key, array in to_arrays(piece).items()}
        return state

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Continue from ``state``."""
        self._returns, self._since = state["returns"].copy(), state["since"].copy()
        self._kept = int(state["kept"][0])
        self._expected = {int(slot): int(start) for slot, start in state["expected"]}
        self._open = {int(slot): list(_saved_pieces(section(state, f"{slot}/"))) for slot in state["open"]}


def _episodes(unroll: Unroll[Array]) -> Iterator[tuple[int, int]]:
    """First and last entry of every part of an episode in an unroll of one slot.

    The entry after an end opens the next episode; what lies between them is the reset step.
    """
    ends = np.flatnonzero((unroll.terminated | unroll.truncated)[:, 0]).tolist()
    first, last = 0, len(unroll.reward) - 1
    for end in ends:
        yield first, end
        first = end + 1
    if first <= last:
        yield first, last


def _piece(unroll: Unroll[Array], first: int, last: int) -> Piece:
    """A copy of entries ``first`` to ``last``; the core state is that of entry 0, or the zeros of a new episode."""
    entries = len(unroll.reward)

    def cut(array: Array) -> Array:
        # Frames that are stored once begin before entry 0.
        return array[first : len(array) - entries + last + 1].copy()

    piece = combined([unroll], lambda arrays: cut(arrays[0]), lambda arrays: arrays[0].copy())
    if first == 0:
        return piece
    # Before the first frame of an episode there is nothing.
    observation = {key: _blanked(array, len(array) - (last - first + 1)) for key, array in piece.observation.items()}
    return piece._replace(
        observation=observation,
        core_state=tuple(np.zeros_like(array) for array in piece.core_state),
        previous_action=np.full_like(piece.previous_action, NO_ACTION),
        first=np.ones_like(piece.first),
    )


def _blanked(array: Array, lead: int) -> Array:
    array[:lead] = 0
    return array


def _pairs(numbers: Mapping[int, int]) -> IntArray:
    return np.array(sorted(numbers.items()), np.int64).reshape(-1, 2)


def _saved_pieces(arrays: Mapping[str, Array]) -> Iterator[Piece]:
    index = 0
    while own := section(arrays, f"{index}/"):
        yield from_arrays(own)
        index += 1
