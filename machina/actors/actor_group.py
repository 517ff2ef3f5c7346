"""The actors of a run, in every place: how they are started and asked for unrolls, and what they report.

``machina.actors.inline`` runs them in the caller's thread when the buffer runs dry; ``machina.actors.local`` gives each
a thread; ``machina.cluster.actor_group`` a process of a Ray cluster. The actor is the same everywhere.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from machina.actors.actor import Actor, Fault
from machina.actors.actor_builder import ActorBuilder, ActorSetup
from machina.actors.stepping import Stepper
from machina.buffers.buffer import Batch, Buffer
from machina.buffers.parameters import ParameterStore
from machina.checkpoint.status import ActorStatus
from machina.config import RuntimeConfig
from machina.errors import RunFailedError, UserError
from machina.interfaces import SlotEnv
from machina.metrics import merged_seconds
from machina.types import Array, Episode, GameResult, IntArray

THIS_MACHINE = "this machine"


class ActorStats(NamedTuple):
    """A moment in the actors' life."""

    shares: dict[str, float]
    """Seconds per activity, summed over actors."""
    faults: int
    env_steps_cut: int
    slots_started: int
    """Environments built so far, replacements included."""
    actors: tuple[ActorStatus, ...]


class ActorGroup(ABC):
    """What all places share.

    Args:
        setup: what actors are built from.
        runtime: the configuration's section.
        slots: of each actor's groups, see ``machina.actors.slots``.
        buffer: where unrolls go.
        store: where parameters come from.
    """

    def __init__(
        self,
        setup: ActorSetup,
        runtime: RuntimeConfig,
        slots: list[list[IntArray]],
        buffer: Buffer,
        store: ParameterStore,
    ) -> None:
        self._setup = setup
        self._runtime = runtime
        self._slots = slots
        self._buffer = buffer
        self._store = store
        self._initial: dict[str, Array] = {}
        self._faults: list[Fault] = []
        self._reported = 0
        self._lock = threading.Lock()

    @property
    def total_slots(self) -> int:
        """Environments of all actors."""
        return sum(len(group) for groups in self._slots for group in groups)

    def _note_fault(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)
            count = sum(each.counts for each in self._faults)
        if fault.counts and count > self._runtime.max_restarts:
            raise RunFailedError(f"{fault.message}; environments and actors failed {count} times (max_restarts)")

    @abstractmethod
    def start(self, state: dict[str, Array]) -> None:
        """Start the actors; ``state`` is empty for a new run."""

    @abstractmethod
    def next_batch(self, updates: int, timeout_s: float) -> Batch | None:
        """The next batch of the buffer, or None when there is none after ``timeout_s``.

        Args:
            updates: that the learner has made.
            timeout_s: how long to wait.

        Raises:
            UserError, RunFailedError: an actor failed for good, or too often.
        """

    @abstractmethod
    def state(self) -> dict[str, Array]:
        """What a checkpoint keeps of the actors, as named arrays."""

    @abstractmethod
    def unrolls_at_hand(self) -> int:
        """Unrolls, full or begun, that ``state`` does not keep: lost when the run continues from there."""

    @abstractmethod
    def close(self) -> None:
        """Stop the actors and close the environments."""

    def _round_is_complete(self) -> bool:
        """In lock-step the learner starts when every slot's unroll is in, so that their order is fixed.

        A round that leaves the buffer short of a batch is followed by another with the same parameters.
        """
        rounds, begun = divmod(self._buffer.accepted, self.total_slots)
        if begun:
            return False
        if not self._buffer.holds_batch:
            self._store.count_up_to(rounds + 1)
            return False
        return True

    def scale(self, actors: int | Literal["auto"]) -> None:
        """Have this many actors from now on.

        Raises:
            UserError: only the place ``ray`` can.
        """
        raise UserError(
            f"actors={actors}: place {self._runtime.place} has a fixed number of actors; only place ray can be scaled"
        )

    @abstractmethod
    def drain_episodes(self) -> Iterator[Episode]:
        """Episodes that ended since the last call."""

    @abstractmethod
    def drain_games(self) -> Iterator[GameResult]:
        """Games of several agents that ended since the last call."""

    @abstractmethod
    def stats(self) -> ActorStats:
        """The time shares, the faults and the actors so far."""

    def drain_faults(self) -> list[Fault]:
        """Faults since the last call."""
        with self._lock:
            new = self._faults[self._reported :]
            self._reported = len(self._faults)
        return new

    def _faults_so_far(self) -> tuple[int, int]:
        """Number of faults, and the env steps that were cut by them."""
        with self._lock:
            counted = sum(fault.counts for fault in self._faults)
            return counted, sum(fault.env_steps_cut for fault in self._faults)


class InProcessActors(ActorGroup):
    """Actors that live in this process.

    Args:
        setup: what actors are built from.
        runtime: the configuration's section.
        slots: of each actor's groups.
        buffer: where unrolls go.
        store: where parameters come from.
        make_stepper: decides how environments are stepped.
        in_order: build one group after the other, so that those that share the process's random generators repeat.
    """

    def __init__(
        self,
        setup: ActorSetup,
        runtime: RuntimeConfig,
        slots: list[list[IntArray]],
        buffer: Buffer,
        store: ParameterStore,
        make_stepper: Callable[[SlotEnv], Stepper],
        *,
        in_order: bool,
    ) -> None:
        super().__init__(setup, runtime, slots, buffer, store)
        self._builder = ActorBuilder(setup, make_stepper, buffer, self._note_fault, in_order=in_order)
        self._actors: list[Actor] = []

    def drain_episodes(self) -> Iterator[Episode]:
        """Episodes that ended since the last call."""
        for actor in self._actors:
            yield from actor.drain_episodes()

    def drain_games(self) -> Iterator[GameResult]:
        """Games of several agents that ended since the last call."""
        for actor in self._actors:
            yield from actor.drain_games()

    def stats(self) -> ActorStats:
        """The time shares, the faults and the actors so far."""
        shares = merged_seconds(actor.shares.seconds() for actor in self._actors)
        status = tuple(
            ActorStatus(number, THIS_MACHINE, "collecting", actor.num_slots, 0, 0.0, actor.env_steps, actor.speed)
            for number, actor in enumerate(self._actors)
        )
        return ActorStats(shares, *self._faults_so_far(), self._builder.slots_started, status)
