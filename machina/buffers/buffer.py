"""What is handed from actors to the queue, and from the queue to the learner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from machina.buffers.unrolls import concatenate_slots, slice_slots
from machina.types import Array, IntArray, Unroll


class Handover(NamedTuple):
    """A full unroll of one group of slots, on its way to the learner."""

    unroll: Any
    """``Unroll`` of arrays; in the place ``ray`` a reference to one."""
    num_slots: int
    policy_version: int
    release: Callable[[], None]
    """Called once when nobody reads the unroll any more."""
    order: int | None = None
    """Rank among queued unrolls; None is arrival order."""


class Part(NamedTuple):
    """Slots ``start`` to ``stop`` of a handed-over unroll."""

    unroll: Any
    start: int
    stop: int


class Batch:
    """Unrolls of B slots that make one update, as parts of what the actors handed over.

    Args:
        parts: in the order of the batch.
        policy_versions: ``[B]``, of the parameters that acted.
        finished: handovers whose last slot is in this batch.
    """

    def __init__(self, parts: Sequence[Part], policy_versions: IntArray, finished: Sequence[Handover]) -> None:
        self.parts = parts
        self.policy_versions = policy_versions
        self._finished = finished

    @property
    def num_slots(self) -> int:
        """B."""
        return len(self.policy_versions)

    def share(self, rank: int, size: int) -> list[Part]:
        """The parts of a learner rank: ``1 / size`` of the slots, or as near as whole slots come."""
        first, last = self.num_slots * rank // size, self.num_slots * (rank + 1) // size
        share, position = [], 0
        for part in self.parts:
            start = part.start + max(0, first - position)
            stop = min(part.stop, part.start + last - position)
            if start < stop:
                share.append(Part(part.unroll, start, stop))
            position += part.stop - part.start
        # A rank without slots takes part in the sums all the same; it needs the arrays' shapes.
        return share or [Part(self.parts[0].unroll, 0, 0)]

    def release(self) -> None:
        """Give the actors' buffers back; the parts must not be read again."""
        for handover in self._finished:
            handover.release()
        self._finished = ()


def joined(parts: Sequence[Part]) -> Unroll[Array]:
    """A fresh unroll ``[T + 1, B, ...]`` with the slots of all parts, in order."""
    return concatenate_slots([slice_slots(part.unroll, part.start, part.stop) for part in parts])


def make_batch(taken: Sequence[tuple[Handover, int, int]], finished: Sequence[Handover]) -> Batch:
    """A batch of slots ``start`` to ``stop`` of several handovers."""
    versions = [np.full(stop - start, handover.policy_version, np.int64) for handover, start, stop in taken]
    return Batch([Part(item.unroll, start, stop) for item, start, stop in taken], np.concatenate(versions), finished)
