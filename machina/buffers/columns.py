"""Arrays with an entry per position of a replay's lanes: plain ones, and frames in compressed blocks."""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple, Protocol

import lz4.block
import numpy as np
import numpy.typing as npt

from machina.buffers.layout import BLOCK
from machina.errors import UserError
from machina.specs import ArraySpec
from machina.types import Array, IntArray


class Positions(NamedTuple):
    """Where the entries of k runs of n lie: each run in one lane, one entry after the other."""

    lanes: IntArray
    """``[k]``: the lane of each run."""
    counts: IntArray
    """``[n, k]``: numbers of the entries in their lane, counted since it began."""
    flat: IntArray
    """``[n, k]``: the same as rows of an array with ``lane length`` rows per lane."""


class Column(Protocol):
    """One array of entries."""

    def write(self, at: Positions, values: Array) -> None:
        """Store ``values`` ``[n, k, ...]``; the counts of a run are consecutive, and follow what the lane has."""
        ...

    def read(self, at: Positions) -> Array:
        """A fresh array ``[n, k, ...]``; any positions of a run's lane that were written and not overwritten."""
        ...

    def part(self, begin: int, end: int) -> dict[str, Array]:
        """Positions ``begin`` to ``end`` of every lane, multiples of ``BLOCK``, as named arrays that may be views."""
        ...

    def load_part(self, begin: int, end: int, state: Mapping[str, Array]) -> None:
        """Put back what ``part`` gave. Raises ``UserError`` where it is another column's."""
        ...

    def rest(self) -> dict[str, Array]:
        """What is of no position, as named arrays."""
        ...

    def load_rest(self, state: Mapping[str, Array]) -> None:
        """Put back what ``rest`` gave."""
        ...


class PlainColumn:
    """One flat array, in memory that is not touched before it is written.

    Args:
        lanes: number of lanes.
        length: positions of each.
        array: of one entry.
    """

    def __init__(self, lanes: int, length: int, array: ArraySpec) -> None:
        self.rows: Array = untouched_zeros((lanes * length, *array.shape), array.dtype)
        self._by_lane = self.rows.reshape(lanes, length, *array.shape)

    def write(self, at: Positions, values: Array) -> None:
        self.rows[at.flat] = values

    def read(self, at: Positions) -> Array:
        return self.rows.take(at.flat, axis=0)

    def part(self, begin: int, end: int) -> dict[str, Array]:
        return {"rows": self._by_lane[:, begin:end]}

    def load_part(self, begin: int, end: int, state: Mapping[str, Array]) -> None:
        own, rows = self._by_lane[:, begin:end], state.get("rows")
        if rows is None or rows.dtype != own.dtype or rows.shape != own.shape:
            raise UserError(f"checkpoint: the replay's rows {begin} to {end} are another run's; use its own")
        own[...] = rows

    def rest(self) -> dict[str, Array]:
        return {}

    def load_rest(self, state: Mapping[str, Array]) -> None:
        """There is none."""


class BlockColumn:
    """Frames in LZ4 blocks of ``BLOCK`` consecutive positions; the block that is being filled is raw in each lane.

    Args:
        lanes: number of lanes.
        length: positions of each, a multiple of ``BLOCK``.
        array: of one frame.
    """

    def __init__(self, lanes: int, length: int, array: ArraySpec) -> None:
        self._raw: Array = np.zeros((lanes, BLOCK, *array.shape), array.dtype)
        self._open = np.zeros(lanes, np.int64)
        """The block that is raw, counted since the lane began."""
        self._per_lane = length // BLOCK
        self._blocks = [b""] * (lanes * self._per_lane)

    def write(self, at: Positions, values: Array) -> None:
        for run, lane in enumerate(at.lanes):
            first, done = int(at.counts[0, run]), 0
            while done < len(values):
                block, offset = divmod(first + done, BLOCK)
                if block != self._open[lane]:
                    self._close(lane)
                    self._open[lane] = block
                size = min(BLOCK - offset, len(values) - done)
                self._raw[lane, offset : offset + size] = values[done : done + size, run]
                done += size

    def _close(self, lane: int) -> None:
        packed = lz4.block.compress(self._raw[lane].reshape(-1).view(np.uint8), store_size=False)
        self._blocks[lane * self._per_lane + self._open[lane] % self._per_lane] = packed

    def read(self, at: Positions) -> Array:
        """See ``Column``; every block is unpacked once, whatever number of its frames is read."""
        frame = self._raw.shape[2:]
        result = np.empty((at.counts.size, *frame), self._raw.dtype)
        blocks, offsets = np.divmod(at.counts, BLOCK)
        places = (at.lanes * self._per_lane + blocks % self._per_lane).ravel()
        is_raw, offsets = (blocks == self._open[at.lanes]).ravel(), offsets.ravel()
        order = np.argsort(places, kind="stable")
        starts = np.flatnonzero(np.diff(places[order], prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
            wanted = order[start:stop]
            place = int(places[wanted[0]])
            frames = self._raw[place // self._per_lane] if is_raw[wanted[0]] else self._unpacked(place)
            result[wanted] = frames[offsets[wanted]]
        return result.reshape(*at.counts.shape, *frame)

    def _unpacked(self, place: int) -> Array:
        size = self._raw[0].nbytes
        frames = np.frombuffer(lz4.block.decompress(self._blocks[place], uncompressed_size=size), self._raw.dtype)
        return frames.reshape(self._raw.shape[1:])

    def _places(self, begin: int, end: int) -> list[int]:
        """Of the blocks of positions ``begin`` to ``end`` of all lanes."""
        lanes = range(len(self._open))
        blocks = range(begin // BLOCK, -(-end // BLOCK))
        return [lane * self._per_lane + block for lane in lanes for block in blocks]

    def part(self, begin: int, end: int) -> dict[str, Array]:
        blocks = [self._blocks[place] for place in self._places(begin, end)]
        return {
            "packed": np.frombuffer(b"".join(blocks), np.uint8),
            "sizes": np.array([len(block) for block in blocks], np.int64),
        }

    def load_part(self, begin: int, end: int, state: Mapping[str, Array]) -> None:
        places, sizes = self._places(begin, end), state.get("sizes", np.zeros(0, np.int64))
        packed = state["packed"].tobytes() if "packed" in state else b""
        if len(sizes) != len(places) or sizes.sum() != len(packed):
            raise UserError(f"checkpoint: the replay's frames {begin} to {end} are another run's; use its own")
        for place, stop, size in zip(places, np.cumsum(sizes).tolist(), sizes.tolist(), strict=True):
            self._blocks[place] = packed[stop - size : stop]

    def rest(self) -> dict[str, Array]:
        return {"raw": self._raw, "open": self._open}

    def load_rest(self, state: Mapping[str, Array]) -> None:
        self._raw[...], self._open[...] = state["raw"], state["open"]


def untouched_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Zeros that take no memory before they are written; what numpy asks for may be used memory, which is cleared.

    In large pages, where the kernel has any: they are cleared faster when they are first written to, and found faster.
    """
    count = math.prod(shape)
    size = max(1, count * np.dtype(dtype).itemsize)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError):  # not every system knows of them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype, count).reshape(shape)


def row_bytes(array: ArraySpec) -> int:
    """Of one entry."""
    return np.dtype(array.dtype).itemsize * math.prod(array.shape)
