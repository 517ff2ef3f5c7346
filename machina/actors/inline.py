"""The place ``inline``: everything one after the other, in a fixed order."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, wait

from machina.actors.actor import Actor, Fault
from machina.actors.actor_builder import ActorSetup, opponents_key
from machina.actors.actor_group import InProcessActors
from machina.actors.slot_group import group_key
from machina.actors.stepping import InlineStepper, Stepper
from machina.buffers.buffer import Batch, Buffer
from machina.buffers.parameters import ParameterStore
from machina.config import RuntimeConfig
from machina.interfaces import SlotEnv
from machina.types import Array, Episode, GameResult, IntArray, section

CLOSE_TIMEOUT_S = 10.0
"""How long environments that are being built are waited for at the end."""


class InlineActors(InProcessActors):
    """Runs the actors when the buffer runs dry: the same seed gives the same run, bit for bit."""

    def __init__(
        self,
        setup: ActorSetup,
        runtime: RuntimeConfig,
        slots: list[list[IntArray]],
        buffer: Buffer,
        store: ParameterStore,
    ) -> None:
        def make_stepper(env: SlotEnv) -> Stepper:
            return InlineStepper(env, lambda message: self._note_fault(Fault(message)))

        super().__init__(setup, runtime, slots, buffer, store, make_stepper, in_order=True)
        self._has_begun = False
        self._built: Future[None] = Future()
        self._stopping = threading.Event()
        self._round: deque[Actor] = deque()
        """Actors that have yet to run in the round under way."""

    def start(self, state: dict[str, Array]) -> None:
        """Begin to build the environments, and continue from ``state`` (empty: a new run)."""
        self._initial = state
        self._has_begun = True
        # In a thread, so that the caller can be stopped meanwhile: environments may take minutes to start.
        threading.Thread(target=self._build, name="build", daemon=True).start()

    def _build(self) -> None:
        try:
            for slots in self._slots:
                self._actors.append(self._builder.build(slots, self._initial, self._store.latest().opponents))
                if self._stopping.is_set():
                    self._actors.pop().close()
                    break
            else:
                self._refill_buffer(section(self._initial, "queue/"))
            self._built.set_result(None)
        except BaseException as error:
            self._built.set_exception(error)

    def _refill_buffer(self, waiting: dict[str, Array]) -> None:
        if waiting:
            self._actors[0].groups[0].check_unrolls(waiting)
        self._buffer.load_state(waiting)

    def next_batch(self, updates: int, timeout_s: float) -> Batch | None:
        """The next batch; runs a round of every actor when the buffer is short, and one only.

        A replay counts what is put in: after each round the run may be over, as it would be in every other place. When
        time runs out between two steps, the next call continues the round.
        """
        deadline = time.monotonic() + timeout_s
        wait([self._built], timeout_s)
        if not self._built.done():
            return None
        self._built.result()
        if not self._round:
            batch = self._buffer.take(updates, timeout_s=0)
            if batch is not None:
                return batch
            self._round.extend(self._actors)
        while self._round:
            if not self._round[0].run_round(self._store.latest(), deadline):
                return None
            self._round.popleft()
        return self._buffer.take(updates, timeout_s=0)

    def drain_episodes(self) -> Iterator[Episode]:
        """Episodes that ended since the last call; none in the middle of a round, so that their order repeats."""
        if not self._round:
            yield from super().drain_episodes()

    def drain_games(self) -> Iterator[GameResult]:
        """The same of games."""
        if not self._round:
            yield from super().drain_games()

    def state(self) -> dict[str, Array]:
        """Every group's state and the unrolls that wait, as named arrays; an unroll that is open is not kept."""
        if len(self._actors) < len(self._slots) or not self._built.done():
            return dict(self._initial)
        state: dict[str, Array] = {}
        self._rest()
        for slots, actor in zip(self._slots, self._actors, strict=False):
            for group in actor.groups:
                kept = group.counters() if actor.is_broken else group.state()
                state |= {group_key(group.slots) + key: array for key, array in kept.items()}
            if actor.opponents is not None:
                key = opponents_key(slots)
                state |= {key + name: array for name, array in actor.opponents.state().items()}
        return state | {f"queue/{key}": array for key, array in self._buffer.state().items()}

    def unrolls_at_hand(self) -> int:
        """Those that are open: none but in the middle of a round. Those that wait are in ``state``."""
        return self._rest()

    def _rest(self) -> int:
        return sum(actor.rest() for actor in self._actors) if self._built.done() else 0

    def close(self) -> None:
        """Close the environments."""
        self._stopping.set()
        if self._has_begun:
            wait([self._built], CLOSE_TIMEOUT_S)
        for actor in self._actors:
            actor.close()
