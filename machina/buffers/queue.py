"""The queue: a buffer from which every unroll is learned once.

Units are unrolls of one slot. The account is exact at any moment: accepted = learned + dropped + queued. With a bound
of 0 or 1 on the policy lag it is the synchronous batch of PPO; no other class is needed for that.
"""

from __future__ import annotations

import bisect
import itertools
import threading
import time
from collections.abc import Callable, Mapping

import numpy as np

from machina.buffers.buffer import (
    Batch,
    BufferClosedError,
    BufferSizes,
    Handover,
    Part,
    ReplayPart,
    joined,
    make_batch,
)
from machina.buffers.unrolls import from_arrays, num_slots, slice_slots, to_arrays
from machina.types import Array, Learned


class UnrollQueue:
    """Hands unrolls from actors to the learner, first in first out; implements ``machina.buffers.buffer.Buffer``.

    ``put`` waits while the queue is full (back-pressure: nothing is dropped silently), if it is made to. ``take``
    takes slots off the head, across handovers, so that a batch mixes the slots of every game in turn.

    Args:
        sizes: of the buffer.
    """

    def __init__(self, sizes: BufferSizes) -> None:
        self._sizes = sizes
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

    def admits(self, unrolls: int, promised: int, slots: int) -> bool:
        """Whether a round may begin; see ``machina.buffers.buffer.Buffer``.

        With a round of every slot on top of what may wait, an actor whose round was taken in begins the next one at
        once as long as the learner keeps up, and whenever the queue is short of a batch there is room.
        """
        batch_size, lag = self._sizes.batch_size, self._sizes.max_policy_lag
        with self._changed:
            if self._waiting + promised + unrolls > self._sizes.capacity + slots:
                return False
            ahead = self._waiting + self._unsettled + promised
        # What is short of a batch is waited for by the learner, whatever becomes of the rest.
        return lag is None or ahead < batch_size or ahead + unrolls <= (lag + 1) * batch_size

    def put(self, handover: Handover) -> None:
        """Take in an unroll; waits while there is no room.

        Raises:
            BufferClosedError: the queue was closed.
        """
        with self._changed:
            while not self._closed and not self._has_room(handover.num_slots):
                self._changed.wait()
            if self._closed:
                raise BufferClosedError
            order = self._arrivals if handover.order is None else handover.order
            self._arrivals += 1
            # A head that is partly taken stays the head.
            lowest = int(self._taken_of_head > 0)
            bisect.insort(self._items, (order, handover), lo=lowest, key=lambda item: item[0])
            self._accepted += handover.num_slots
            self._waiting += handover.num_slots
            self._changed.notify_all()

    def _has_room(self, new: int) -> bool:
        return not self._sizes.waits or self._waiting + new <= self._sizes.capacity

    def take(self, updates: int, timeout_s: float) -> Batch | None:
        """The next batch, or None after ``timeout_s``; unrolls that would be too old are dropped.

        The batch counts as queued until ``settle``.
        """
        count, deadline = self._sizes.batch_size, time.monotonic() + timeout_s
        with self._changed:
            self._drop_old(updates)
            while self._waiting < count:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return None
                self._changed.wait(remaining)
                self._drop_old(updates)
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
                self._items.pop(0)
                self._taken_of_head = 0
        return make_batch(taken, finished)

    def _drop_old(self, updates: int) -> None:
        """Drop every unroll that is too old; a slow actor's may stand behind younger ones."""
        if self._sizes.max_policy_lag is None:
            return
        oldest = updates + self._unsettled // self._sizes.batch_size - self._sizes.max_policy_lag
        too_old = [item for _, item in self._items if item.policy_version < oldest]
        if not too_old:
            return
        taken_before = 0
        if self._items[0][1] is too_old[0]:
            taken_before, self._taken_of_head = self._taken_of_head, 0
        self._items = [entry for entry in self._items if entry[1].policy_version >= oldest]
        dropped = sum(item.num_slots for item in too_old) - taken_before
        self._waiting -= dropped
        self._dropped += dropped
        for item in too_old:
            # The reader of the head's former slots is done: batches are settled in order.
            item.release()
        # Actors that wait in ``put`` have room now, whether or not this ``take`` gets a batch.
        self._changed.notify_all()

    def settle(self, batch: Batch, learned: Learned | None) -> None:
        """Count a batch as learned from but for what could not be fetched of it, or None: as dropped."""
        lost = batch.num_slots if learned is None else learned.lost
        with self._changed:
            self._unsettled -= batch.num_slots
            self._learned += batch.num_slots - lost
            self._dropped += lost

    @property
    def holds_batch(self) -> bool:
        """Whether as many wait as make a batch."""
        with self._changed:
            return self._waiting >= self._sizes.batch_size

    @property
    def accepted(self) -> int:
        """Unrolls put so far."""
        with self._changed:
            return self._accepted

    @property
    def env_steps(self) -> int:
        """Learned from so far."""
        with self._changed:
            return self.env_steps_of(self._learned)

    def env_steps_of(self, unrolls: int) -> int:
        """All of them."""
        return unrolls * self._sizes.unroll_length

    def metrics(self) -> dict[str, float]:
        """Nothing besides the account."""
        return {}

    @property
    def num_queued(self) -> int:
        """Unrolls that wait, or are in batches that are not settled."""
        with self._changed:
            return self._waiting + self._unsettled

    def account(self) -> dict[str, int]:
        """Accepted; learned; dropped, as too old or lost; queued, waiting or in a batch that is not settled yet."""
        with self._changed:
            # Each is counted by itself: that they add up is a statement, which the tests of faults check.
            return {
                "accepted": self._accepted,
                "learned": self._learned,
                "dropped": self._dropped,
                "queued": self._waiting + self._unsettled,
            }

    def state(self) -> dict[str, Array]:
        """A copy of everything that waits, as ``to_arrays`` names it; empty when nothing does."""
        with self._changed:
            if not self._items:
                return {}
            starts = [self._taken_of_head] + [0] * (len(self._items) - 1)
            parts = [
                Part(item.unroll, start, item.num_slots) for (_, item), start in zip(self._items, starts, strict=True)
            ]
            return to_arrays(joined(parts))

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Take in what waited."""
        if not state:
            return
        unroll = from_arrays(dict(state))
        # Those of one version together, as they were handed over: by it they are dropped.
        bounds = np.flatnonzero(np.diff(unroll.policy_version)) + 1
        pieces = list(itertools.pairwise([0, *bounds.tolist(), num_slots(unroll)]))
        for order, (start, stop) in enumerate(pieces, start=-len(pieces)):  # before all that comes now
            part = slice_slots(unroll, start, stop)
            self.put(Handover(part, stop - start, int(part.policy_version[0]), _nothing, int(part.slot[0]), order))

    def visit_parts(self, visit: Callable[[ReplayPart], None]) -> None:
        """Nothing: what waits is in ``state``."""

    def resume(self, env_steps: int, parts: Mapping[str, Callable[[], dict[str, Array]]]) -> None:
        """Nothing depends on it."""

    def close(self) -> None:
        """Wake every actor that waits in ``put``; the queue takes nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _nothing() -> None:
    """What was loaded has no other owner."""
