"""The buffer between actors and learner, as a contract, and what is handed over and taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from machina.buffers.unrolls import concatenate_slots, slice_slots
from machina.errors import RunFailedError
from machina.handles import Handle
from machina.types import Array, FloatArray, IntArray, Learned, Unroll


class BufferSizes(NamedTuple):
    """What a buffer is made for."""

    batch_size: int
    """B: unrolls per update."""
    unroll_length: int
    """T."""
    capacity: int
    """Most unrolls that wait, besides one of every slot that is being collected."""
    max_policy_lag: int | None
    """Updates that the parameters of an unroll may lie behind when it is learned from; None: any number."""
    waits: bool
    """Whether ``put`` waits for room; otherwise actors ask ``admits`` before they begin."""
    num_slots: int
    """Of the run as it begins."""
    total_env_steps: int
    """Length of the run."""
    seed: int


class Handover(NamedTuple):
    """A full unroll of one group of slots, on its way to the learner."""

    unroll: Any
    """``Unroll`` of arrays; with ``--place ray`` a reference to one."""
    num_slots: int
    policy_version: int
    release: Callable[[], None]
    """Called once when nobody reads the unroll any more."""
    first_slot: int
    """Index of its first slot in the whole run; the others follow."""
    order: int | None = None
    """Position among queued unrolls; None is arrival order."""


class Part(NamedTuple):
    """Slots ``start`` to ``stop`` of a handed-over unroll."""

    unroll: Any
    start: int
    stop: int
    weights: FloatArray | None = None
    """``[stop - start]``: of these slots in every loss, largest 1; None: what the unroll says."""

    def within(self, start: int, stop: int) -> Part:
        """The part's own slots that lie between two others, cut out if they are at hand: what is sent is no more."""
        start, stop = max(self.start, start), min(self.stop, stop)
        weights = None if self.weights is None else self.weights[start - self.start : stop - self.start]
        if isinstance(self.unroll, Unroll):
            return Part(slice_slots(self.unroll, start, stop), 0, stop - start, weights)
        return Part(self.unroll, start, stop, weights)


class Batch:
    """Unrolls of B slots that make one update, as parts of what the actors handed over.

    Args:
        parts: in the order of the batch.
        policy_versions: ``[B]``, of the parameters that acted.
        finished: handovers whose last slot is in this batch.
        publishes: whether actors get the parameters that come of it; those between them are never copied.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        policy_versions: IntArray,
        finished: Sequence[Handover],
        publishes: bool = True,
    ) -> None:
        self.parts = parts
        self.policy_versions = policy_versions
        self.publishes = publishes
        self._finished = finished

    @property
    def num_slots(self) -> int:
        """B."""
        return len(self.policy_versions)

    def share(self, rank: int, size: int) -> list[Part]:
        """The parts of a learner rank: ``1 / size`` of the slots, or as near as whole slots come."""
        if size == 1:
            return list(self.parts)
        first, last = self.num_slots * rank // size, self.num_slots * (rank + 1) // size
        share, position = [], 0
        for part in self.parts:
            start, stop = part.start + max(0, first - position), min(part.stop, part.start + last - position)
            if start < stop:
                share.append(part.within(start, stop))
            position += part.stop - part.start
        # A rank without slots takes part in the sums nevertheless; it needs the arrays' shapes.
        return share or [self.parts[0].within(self.parts[0].start, self.parts[0].start)]

    def release(self) -> None:
        """Give the actors' buffers back; the parts must not be read again."""
        for handover in self._finished:
            handover.release()
        self._finished = ()


class PartLostError(RunFailedError):
    """A part can't be saved: its holder is gone, with all that it held, and an empty one is in its place."""


class ReplayPart(NamedTuple):
    """Part of what a buffer holds, saved in a file of its own."""

    name: str
    """The same in every checkpoint of a run."""
    version: tuple[int, int] | None
    """As long as it stays, so does the content; None: it changes all the time."""
    read: Callable[[], dict[str, Array]]
    """Gives named arrays; raises ``PartLostError``."""


class Buffer(Protocol):
    """Actors put, the trainer takes and settles. Safe among threads.

    An unroll may begin when the buffer ``admits`` it. Every batch that was taken is settled once: learned from, or lost
    with the ranks that should have learned.
    """

    def admits(self, unrolls: int, promised: int, slots: int) -> bool:
        """Whether a round may begin: there is room for it, and what it gives is not too old when its turn comes.

        Args:
            unrolls: that would begin.
            promised: unrolls of the rounds under way.
            slots: of all actors; a round of each may wait besides what the buffer holds.
        """
        ...

    def put(self, handover: Handover) -> None:
        """Take in an unroll, or a reference to one; waits while there is no room.

        Raises:
            BufferClosedError: the buffer was closed.
        """
        ...

    def take(self, updates: int, timeout_s: float) -> Batch | None:
        """The next batch, or None after ``timeout_s``.

        Args:
            updates: that the learner has made.
            timeout_s: how long to wait.
        """
        ...

    def settle(self, batch: Batch, learned: Learned | None) -> None:
        """Count a batch as learned from, write its priorities back; None: it went down with its ranks."""
        ...

    @property
    def holds_batch(self) -> bool:
        """Whether the next batch is there already; in lock-step nothing is published before it is learned from."""
        ...

    @property
    def accepted(self) -> int:
        """Unrolls put so far."""
        ...

    @property
    def env_steps(self) -> int:
        """What a run's length is counted in: of a queue those learned from, of a replay those put in."""
        ...

    def env_steps_of(self, unrolls: int) -> int:
        """By how much ``env_steps`` grows when this many unrolls are learned from."""
        ...

    def metrics(self) -> dict[str, float]:
        """What is logged of it besides the account."""
        ...

    def account(self) -> dict[str, int]:
        """What became of all unrolls: the first number is the sum of the others, at any moment."""
        ...

    @property
    def num_queued(self) -> int:
        """Unrolls that wait, or are in batches that are not settled."""
        ...

    def state(self) -> dict[str, Array]:
        """What a checkpoint keeps, as named arrays. Only with unrolls of arrays."""
        ...

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Continue from ``state``."""
        ...

    def visit_parts(self, visit: Callable[[ReplayPart], None]) -> None:
        """Show what is kept in files of their own, part by part; nothing changes meanwhile."""
        ...

    def resume(self, env_steps: int, parts: Mapping[str, Callable[[], dict[str, Array]]]) -> None:
        """Continue a run that has come so far; before any actor starts.

        Args:
            env_steps: of the whole run.
            parts: by name, what ``visit_parts`` showed; empty where nothing was kept.

        Raises:
            UserError: the parts are of a run with other options.
        """
        ...

    def close(self) -> None:
        """Wake every actor that waits in ``put``; the buffer takes nothing more."""
        ...


class Shards(Protocol):
    """Where parts of a buffer live that may be processes of their own; each place says it."""

    def start(self, make: Callable[[], object], name: str) -> Handle:
        """A handle of a new object."""
        ...

    def report(self, message: str) -> None:
        """One was lost and another one started; may raise RunFailedError when there were too many."""
        ...


class BufferClosedError(Exception):
    """The buffer was closed while an actor waited to hand over an unroll."""


def joined(parts: Sequence[Part]) -> Unroll[Array]:
    """A fresh unroll ``[T + 1, B, ...]`` with the slots of all parts, in order, and their weights."""
    unroll = concatenate_slots([slice_slots(part.unroll, part.start, part.stop) for part in parts])
    if all(part.weights is None for part in parts):
        return unroll
    weights = [part.unroll.weight[part.start : part.stop] if part.weights is None else part.weights for part in parts]
    return unroll._replace(weight=np.concatenate(weights))


def make_batch(taken: Sequence[tuple[Handover, int, int]], finished: Sequence[Handover]) -> Batch:
    """A batch of slots ``start`` to ``stop`` of several handovers."""
    versions = [np.full(stop - start, handover.policy_version, np.int64) for handover, start, stop in taken]
    return Batch([Part(item.unroll, start, stop) for item, start, stop in taken], np.concatenate(versions), finished)
