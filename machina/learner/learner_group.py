"""The learner group: one or several ranks that make the same update from shares of a batch."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from machina.buffers.buffer import Batch
from machina.buffers.unrolls import concatenate_slots
from machina.errors import RunFailedError
from machina.handles import Handle, HandleFaultError
from machina.interfaces import LearnerState
from machina.types import Array, Learned, Unroll

if TYPE_CHECKING:
    from torch import Tensor

ANSWER_TIMEOUT_S = 300.0
"""How long an update may take; it includes a rank's start, which imports torch and builds the network."""

AFTERMATH_TIMEOUT_S = 2.0
"""How long the other ranks are heard after one of them failed, to find out which one it was."""

LAST_UPDATE_S = 30.0
"""How long a rank is waited for when the run ends meanwhile: an update takes seconds."""

LOOK_S = 0.2
"""How often a wait for a rank looks whether the run ends."""

KEPT_STATE_S = 10.0
"""How often the state is copied into this process; at most this much work is undone when a rank dies."""


class Updated(NamedTuple):
    """An update that the group has made."""

    batch: Batch
    learned: Learned
    """What it came to on all ranks together."""
    parameters: Any
    """A flat tensor, or with ``--place ray`` a reference to one; None where the batch publishes nothing."""


class Lost(NamedTuple):
    """A batch that went down with its ranks."""

    batch: Batch


class LearnerGroup:
    """Sends each rank its share of a batch and collects what came of it.

    Args:
        start: starts the ranks; called again after one of them died.
        ahead: updates that may be under way when ``submit`` returns; 0 makes it wait for each one.
        max_restarts: how often the ranks may be started again; None when a fault of the only rank is final.
        on_fault: called for every restart, with one line.
        is_over: whether the run ends now; then no rank is waited for longer than ``LAST_UPDATE_S``.
    """

    def __init__(
        self,
        start: Callable[[], Sequence[Handle]],
        ahead: int,
        max_restarts: int | None,
        on_fault: Callable[[str], None],
        is_over: Callable[[], bool],
    ) -> None:
        self._start = start
        self._ahead = ahead
        self._max_restarts = max_restarts
        self._on_fault = on_fault
        self._is_over = is_over
        try:
            self._ranks = start()
        except HandleFaultError as fault:
            raise RunFailedError(str(fault)) from fault
        self._under_way: deque[Batch] = deque()
        self._kept: LearnerState | None = None
        self._kept_at = time.monotonic()
        self._updates_since = 0
        self._has_failed = False
        """Whether a rank raised, when the others may wait for it, or they died too often: none is asked any more."""
        self.restarts = 0
        self.updates_undone = 0
        """Updates since the kept state at every restart, summed."""

    def submit(self, batch: Batch, done: float) -> list[Updated | Lost]:
        """Begin an update; returns those that are finished, in order.

        Args:
            batch: to be learned from.
            done: fraction of the run that is done when it is learned from.

        Raises:
            RunFailedError: the learner raised, or its ranks died too often.
        """
        size = len(self._ranks)
        for index, rank in enumerate(self._ranks):
            rank.call("update", batch.share(index, size), done, batch.publishes)
        batch.release()
        self._under_way.append(batch)
        answers = self._answers_until(self._ahead)
        if self._max_restarts is not None and time.monotonic() - self._kept_at > KEPT_STATE_S:
            answers += self.drain()
            self._keep(self._ask("state")[0])
        return answers

    @property
    def under_way(self) -> int:
        """Unrolls in the updates under way."""
        return sum(batch.num_slots for batch in self._under_way)

    def drain(self) -> list[Updated | Lost]:
        """Wait for the updates under way; after a failure nothing comes of them."""
        return [] if self._has_failed else self._answers_until(0)

    def _answers_until(self, under_way: int) -> list[Updated | Lost]:
        answers: list[Updated | Lost] = []
        while len(self._under_way) > under_way:
            try:
                results = self._collect()
            except HandleFaultError as fault:
                answers += [Lost(batch) for batch in self._under_way]
                self._restart(fault)
                break
            answers.append(Updated(self._under_way.popleft(), _of_all([each for each, _ in results]), results[0][1]))
            self._updates_since += 1
        return answers

    def _collect(self) -> list[Any]:
        """The oldest answer of every rank.

        Raises:
            HandleFaultError: of the rank that died, when others only complain that they lost it.
        """
        results: list[Any] = []
        faults: list[HandleFaultError] = []
        for rank in self._ranks:
            try:
                results.append(self._answer_of(rank, AFTERMATH_TIMEOUT_S if faults else ANSWER_TIMEOUT_S))
            except HandleFaultError as fault:
                faults.append(fault)
            except Exception:
                self._has_failed = True
                raise
        if faults:
            raise next((fault for fault in faults if fault.died), faults[0])
        return results

    def _answer_of(self, rank: Handle, timeout_s: float) -> Any:
        """A rank's answer.

        Raises:
            HandleFaultError: it is dead, or silent for ``timeout_s``.
            RunFailedError: it is silent while the run ends.
        """
        deadline, last = time.monotonic() + timeout_s, math.inf
        while not rank.has_answered(min(LOOK_S, timeout_s)):
            if time.monotonic() >= deadline:
                raise HandleFaultError(f"{rank.name}: no answer for {timeout_s:g} s")
            if self._is_over():
                last = min(last, time.monotonic() + LAST_UPDATE_S)
            if time.monotonic() >= last:
                raise RunFailedError(f"{rank.name}: no answer for {LAST_UPDATE_S:g} s after the end of the run was due")
        return rank.answer()

    def _restart(self, fault: HandleFaultError) -> None:
        self._under_way.clear()
        if self._max_restarts is None or self.restarts >= self._max_restarts:
            self._has_failed = True
            raise RunFailedError(f"{fault}; learner ranks failed {self.restarts + 1} times (max_restarts)")
        self.restarts += 1
        self.updates_undone += self._updates_since
        self._on_fault(f"{fault}; the learner continues from its state {self._updates_since} updates ago")
        for rank in self._ranks:
            rank.kill()
        self._updates_since = 0
        try:
            self._ranks = self._start()
        except HandleFaultError as again:
            self._ranks = []
            self._restart(again)
            return
        if self._kept is not None:
            self.load_state(self._kept)

    def _keep(self, state: LearnerState) -> None:
        self._kept = state
        self._kept_at = time.monotonic()
        self._updates_since = 0

    def _ask(self, method: str, *arguments: Any) -> list[Any]:
        """The answers of all ranks to a call; nothing may be under way.

        Raises:
            RunFailedError: a rank died again right after its start.
        """
        for rank in self._ranks:
            rank.call(method, *arguments)
        try:
            return self._collect()
        except HandleFaultError as fault:
            self._restart(fault)
            return self._ask(method, *arguments)

    def parameters(self) -> Any:
        """The parameters for publication; nothing may be under way."""
        return self._ask("parameters")[0][1]

    def state(self) -> LearnerState:
        """What a checkpoint keeps; nothing may be under way.

        Raises:
            RunFailedError: the ranks failed before a state of theirs was kept.
        """
        if self._has_failed:
            if self._kept is None:
                raise RunFailedError("the learner failed before a state of it was kept")
            self.updates_undone += self._updates_since
            self._updates_since = 0
            return self._kept
        state: LearnerState = self._ask("state")[0]
        return state

    def load_state(self, state: LearnerState) -> None:
        """Continue from ``state`` on every rank."""
        self._ask("load_state", state)
        self._keep(state)

    def load_initial(self, tensors: Mapping[str, Tensor], with_value: bool) -> None:
        """Start from another run's model."""
        self._ask("load_initial", tensors, with_value)
        self._keep(self.state())

    def skipped_batch(self) -> Unroll[Array] | None:
        """The last batch, when its update was skipped for NaN; waits for the updates under way."""
        self.drain()
        shares = [share for share in self._ask("skipped") if share is not None]
        return concatenate_slots(shares) if shares else None

    def close(self) -> None:
        """End the ranks."""
        for rank in self._ranks:
            rank.kill()


def _of_all(learned: Sequence[Learned]) -> Learned:
    """What an update came to on all ranks: metrics are the same on each, unrolls and priorities are its share's."""
    priorities = [each.priorities for each in learned if each.priorities is not None]
    return learned[0]._replace(
        lost=sum(each.lost for each in learned), priorities=np.concatenate(priorities) if priorities else None
    )
