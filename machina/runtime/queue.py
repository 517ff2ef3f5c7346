"""The bounded queue between actors and learner.

Units are unrolls of one slot. The account is exact at any moment: accepted = learned + queued.
"""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from machina.runtime.unrolls import concatenate_slots, num_slots, slice_slots
from machina.types import Array, Unroll


class QueueClosedError(Exception):
    """The queue was closed while an actor waited to hand over an unroll."""


class QueueAccount(NamedTuple):
    """What became of the unrolls that the queue accepted."""

    accepted: int
    learned: int
    queued: int


class _Item(NamedTuple):
    order: int
    unroll: Unroll[Array]
    release: Callable[[], None]


class UnrollQueue:
    """Hands unrolls from actors to the learner, first in first out.

    ``put`` waits while the queue is full (back-pressure: nothing is dropped). ``get`` takes slots off
    the head, across unrolls, so that a batch mixes the slots of every game in turn, and copies them,
    so that the actor's buffer can be filled again.

    Args:
        capacity: most unrolls that wait; None is unbounded.
    """

    def __init__(self, capacity: int | None) -> None:
        self._capacity = capacity
        self._items: list[_Item] = []
        self._taken_of_head = 0
        self._accepted = 0
        self._learned = 0
        self._arrivals = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, unroll: Unroll[Array], release: Callable[[], None], order: int | None = None) -> None:
        """Hand over an unroll; waits while there is no room.

        Args:
            unroll: must stay unchanged until ``release`` is called.
            release: called once all slots were taken.
            order: rank among queued unrolls; None is arrival order.

        Raises:
            QueueClosedError: the queue was closed.
        """
        new = num_slots(unroll)
        with self._changed:
            while not self._closed and self._capacity is not None and self._queued() + new > self._capacity:
                self._changed.wait()
            if self._closed:
                raise QueueClosedError
            item = _Item(self._arrivals if order is None else order, unroll, release)
            self._arrivals += 1
            # A head that is partly taken stays the head.
            bisect.insort(self._items, item, lo=int(self._taken_of_head > 0), key=lambda entry: entry.order)
            self._accepted += new
            self._changed.notify_all()

    def get(self, count: int, timeout_s: float) -> Unroll[Array] | None:
        """The next ``count`` unrolls as one batch ``[T + 1, count, ...]``, or None after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._queued() < count:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return None
                self._changed.wait(remaining)
            parts, finished = self._take(count)
            batch = concatenate_slots(parts)
            self._learned += count
            self._changed.notify_all()
        for item in finished:
            item.release()
        return batch

    def _take(self, count: int) -> tuple[list[Unroll[Array]], list[_Item]]:
        """Views of the next ``count`` slots, and the items that they use up."""
        parts: list[Unroll[Array]] = []
        finished: list[_Item] = []
        while count > 0:
            head = self._items[0]
            stop = min(num_slots(head.unroll), self._taken_of_head + count)
            parts.append(slice_slots(head.unroll, self._taken_of_head, stop))
            count -= stop - self._taken_of_head
            self._taken_of_head = stop
            if stop == num_slots(head.unroll):
                finished.append(self._items.pop(0))
                self._taken_of_head = 0
        return parts, finished

    def waiting(self) -> Unroll[Array] | None:
        """A copy of everything queued, for a checkpoint; None when empty."""
        with self._changed:
            if not self._items:
                return None
            views = [item.unroll for item in self._items]
            views[0] = slice_slots(views[0], self._taken_of_head, num_slots(views[0]))
            return concatenate_slots(views)

    def close(self) -> None:
        """Wake every actor that waits in ``put``; the queue takes nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _queued(self) -> int:
        return self._accepted - self._learned

    @property
    def account(self) -> QueueAccount:
        with self._changed:
            return QueueAccount(self._accepted, self._learned, self._queued())
