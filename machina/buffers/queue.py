"""The bounded queue between actors and learner.

Units are unrolls of one slot. The account is exact at any moment: accepted = learned + dropped + queued.
"""

from __future__ import annotations

import bisect
import threading
import time

from machina.buffers.buffer import Batch, Handover, Part, joined, make_batch
from machina.checkpoint.status import QueueAccount
from machina.types import Array, Unroll


class QueueClosedError(Exception):
    """The queue was closed while an actor waited to hand over an unroll."""


class UnrollQueue:
    """Hands unrolls from actors to the learner, first in first out.

    ``put`` waits while the queue is full (back-pressure: nothing is dropped in silence). ``get`` takes slots off the
    head, across handovers, so that a batch mixes the slots of every game in turn.

    Args:
        capacity: most unrolls that wait; None is unbounded.
    """

    def __init__(self, capacity: int | None) -> None:
        self._capacity = capacity
        self._items: list[tuple[int, Handover]] = []
        self._taken_of_head = 0
        self._waiting = 0
        self._unsettled = 0
        self._accepted = 0
        self._learned = 0
        self._dropped = 0
        self._arrivals = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, handover: Handover) -> None:
        """Take in an unroll; waits while there is no room.

        Raises:
            QueueClosedError: the queue was closed.
        """
        with self._changed:
            while not self._closed and not self._has_room(handover.num_slots):
                self._changed.wait()
            if self._closed:
                raise QueueClosedError
            order = self._arrivals if handover.order is None else handover.order
            self._arrivals += 1
            # A head that is partly taken stays the head.
            lowest = int(self._taken_of_head > 0)
            bisect.insort(self._items, (order, handover), lo=lowest, key=lambda item: item[0])
            self._accepted += handover.num_slots
            self._waiting += handover.num_slots
            self._changed.notify_all()

    def _has_room(self, new: int) -> bool:
        return self._capacity is None or self._waiting + new <= self._capacity

    def get(self, count: int, timeout_s: float, oldest_version: int = 0) -> Batch | None:
        """The next ``count`` unrolls as one batch, or None after ``timeout_s``.

        The batch counts as queued until ``settle``. Unrolls of parameters older than ``oldest_version`` are dropped.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._drop_older(oldest_version)
            while self._waiting < count:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return None
                self._changed.wait(remaining)
                self._drop_older(oldest_version)
            batch = self._take(count)
            self._changed.notify_all()
        return batch

    def _take(self, count: int) -> Batch:
        taken: list[tuple[Handover, int, int]] = []
        finished: list[Handover] = []
        self._waiting -= count
        self._unsettled += count
        while count > 0:
            head = self._items[0][1]
            start, stop = self._taken_of_head, min(head.num_slots, self._taken_of_head + count)
            taken.append((head, start, stop))
            count -= stop - start
            self._taken_of_head = stop
            if stop == head.num_slots:
                finished.append(head)
                self._drop_head()
        return make_batch(taken, finished)

    def _drop_head(self) -> None:
        self._items.pop(0)
        self._taken_of_head = 0

    def _drop_older(self, oldest_version: int) -> None:
        """Drop every unroll that is too old; a slow actor's may stand behind younger ones."""
        too_old = [item for _, item in self._items if item.policy_version < oldest_version]
        if not too_old:
            return
        taken_before = 0
        if self._items[0][1] is too_old[0]:
            taken_before, self._taken_of_head = self._taken_of_head, 0
        self._items = [entry for entry in self._items if entry[1].policy_version >= oldest_version]
        dropped = sum(item.num_slots for item in too_old) - taken_before
        self._waiting -= dropped
        self._dropped += dropped
        for item in too_old:
            # Who read a part of the head before is done: batches are settled in order.
            item.release()
        # Who waits in ``put`` has room now, whether or not this ``get`` comes to a batch.
        self._changed.notify_all()

    def settle(self, batch: Batch, lost: int = 0) -> None:
        """Count a batch as learned, but for ``lost`` of its unrolls, which are dropped."""
        with self._changed:
            self._unsettled -= batch.num_slots
            self._learned += batch.num_slots - lost
            self._dropped += lost

    def waiting(self) -> Unroll[Array] | None:
        """A copy of everything that waits, for a checkpoint; None when empty. Only with unrolls of arrays."""
        with self._changed:
            if not self._items:
                return None
            starts = [self._taken_of_head] + [0] * (len(self._items) - 1)
            return joined(
                [Part(item.unroll, start, item.num_slots) for (_, item), start in zip(self._items, starts, strict=True)]
            )

    @property
    def num_waiting(self) -> int:
        """Unrolls that wait for a batch."""
        with self._changed:
            return self._waiting

    @property
    def num_unsettled(self) -> int:
        """Unrolls in batches that the learner has not answered yet."""
        with self._changed:
            return self._unsettled

    def close(self) -> None:
        """Wake every actor that waits in ``put``; the queue takes nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def account(self) -> QueueAccount:
        with self._changed:
            # Each is counted by itself: that they add up is a statement, which the tests of faults check.
            return QueueAccount(self._accepted, self._learned, self._dropped, self._waiting + self._unsettled)
