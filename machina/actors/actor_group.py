"""What every place of the data plane has in common: its queue, its parameters, its account, its faults.

``machina.actors.inline`` runs the actors in the caller's thread when the queue runs dry; ``machina.actors.local``
gives each actor a thread; ``machina.cluster.actor_group`` a process of a Ray cluster. Actors and queue are the same.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

from machina.actors.actor import Actor, Fault
from machina.actors.actor_builder import ActorBuilder, ActorSetup
from machina.actors.stepping import Stepper
from machina.buffers.buffer import Batch
from machina.buffers.parameters import ParameterStore
from machina.buffers.queue import UnrollQueue
from machina.checkpoint.status import ActorStatus, QueueAccount
from machina.config import RuntimeConfig
from machina.errors import RunFailedError, UserError
from machina.interfaces import SlotEnv
from machina.metrics import merged_seconds
from machina.specs import EnvSpec
from machina.types import Array, Episode, GameResult, IntArray

THIS_MACHINE = "this machine"

GROUPS_PER_ACTOR = 2
"""One steps while the policy answers for the other."""


class PlaneConfig(NamedTuple):
    """What the plane needs beyond the runtime section."""

    batch_size: int
    envs_per_task: int
    actors: int
    """At the start; in the place ``ray`` they may become more or fewer."""
    max_policy_lag: int | None = None
    """Of unrolls that are learned, in updates; None: any."""
    groups_per_actor: int = GROUPS_PER_ACTOR
    """At most; an actor of a single environment has one."""


class PlaneStats(NamedTuple):
    """A moment of the plane's life."""

    account: QueueAccount
    shares: dict[str, float]
    """Seconds per activity, summed over actors."""
    faults: int
    env_steps_cut: int
    slots_started: int
    """Environments built so far, replacements included."""
    actors: tuple[ActorStatus, ...]


def assign_slots(
    spec: EnvSpec, envs_per_task: int, actors: int, groups_per_actor: int = GROUPS_PER_ACTOR
) -> list[list[IntArray]]:
    """Indices of the slots of each actor's groups.

    Neighbours in a batch have different tasks, so that every task gets the same share of frames. The slots of a game
    for several agents stay together.

    Raises:
        UserError: more actors than slots.
    """
    total = spec.num_slots(envs_per_task) // spec.slots_per_game
    if total < actors:
        raise UserError(f"actors={actors}: only {total} environments to step; use fewer actors or more --envs-per-task")
    groups = groups_per_actor if total >= groups_per_actor * actors else 1
    slots = np.arange(total * spec.slots_per_game, dtype=np.int64).reshape(total, spec.slots_per_game)
    chunks = [chunk.reshape(-1) for chunk in np.array_split(slots, actors * groups)]
    return [chunks[i * groups : (i + 1) * groups] for i in range(actors)]


def queue_capacity(slots: list[list[IntArray]], runtime: RuntimeConfig, batch_size: int) -> int:
    """Most unrolls that may wait for the learner.

    The default is the least that cannot block: a batch but one, and the largest handover.

    Raises:
        UserError: ``queue_unrolls`` is too small for the learner ever to get a batch.
    """
    of_actors = [sum(len(group) for group in groups) for groups in slots]
    if runtime.lock_step:
        return batch_size + sum(of_actors)
    if runtime.place == "inline":
        largest = sum(of_actors)  # every actor plays a round when the queue runs dry
    elif runtime.place == "ray":
        largest = max(of_actors)  # the groups of an actor come as one
    else:
        largest = max(len(group) for groups in slots for group in groups)
    smallest = batch_size + largest - 1
    if runtime.queue_unrolls is not None and runtime.queue_unrolls < smallest:
        raise UserError(
            f"queue_unrolls={runtime.queue_unrolls}: actors hand over up to {largest} unrolls at once and the learner "
            f"takes {batch_size}; use at least {smallest}"
        )
    return runtime.queue_unrolls or smallest


def check_policy_lag(slots: list[list[IntArray]], runtime: RuntimeConfig, config: PlaneConfig) -> None:
    """Refuse a bound on the policy lag that drops the same slots of every round.

    Raises:
        UserError: the round's last batch would be learned too late.
    """
    if config.max_policy_lag is None:
        return
    of_actors = [sum(len(group) for group in groups) for groups in slots]
    # Actors that go in step begin together.
    unrolls = sum(of_actors) if runtime.lock_step or runtime.place == "inline" else max(of_actors)
    lag = -(-unrolls // config.batch_size) - 1
    if lag > config.max_policy_lag:
        raise UserError(
            f"batch_size={config.batch_size}: {unrolls} unrolls are collected with the same parameters, and the last "
            f"ones would be {lag} updates old; use --batch-size {unrolls} or --max-policy-lag {lag}"
        )


class Plane(ABC):
    """What all places share.

    Args:
        setup: what actors are built from.
        runtime: the configuration's section.
        config: sizes.
        bounded: whether ``put`` waits for room; otherwise the place bounds what is collected.
    """

    def __init__(self, setup: ActorSetup, runtime: RuntimeConfig, config: PlaneConfig, *, bounded: bool) -> None:
        self._setup = setup
        self._runtime = runtime
        self._config = config
        self._slots = assign_slots(setup.factory.spec, config.envs_per_task, config.actors, config.groups_per_actor)
        check_policy_lag(self._slots, runtime, config)
        self._capacity = queue_capacity(self._slots, runtime, config.batch_size)
        self._initial: dict[str, Array] = {}
        self.store = ParameterStore()
        self.queue = UnrollQueue(self._capacity if bounded else None)
        self._updates = 0
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
    def next_batch(self, timeout_s: float) -> Batch | None:
        """The next batch, or None when there is none after ``timeout_s``. Read it before asking for another."""

    @abstractmethod
    def state(self) -> dict[str, Array]:
        """What a checkpoint keeps of the actors, as named arrays."""

    @abstractmethod
    def unrolls_at_hand(self) -> int:
        """Unrolls, full or begun, that ``state`` does not keep: lost when the run goes on from there."""

    @abstractmethod
    def close(self) -> None:
        """Stop the actors and close the environments."""

    def publish(self, policy_version: int, flat: Any) -> None:
        """Make new parameters visible; in lock-step only when the round's last batch is learned."""
        self._updates = policy_version
        if self._runtime.lock_step and self.queue.num_waiting >= self._config.batch_size:
            return
        self.store.publish(policy_version, flat)

    def _batch_from_queue(self, timeout_s: float) -> Batch | None:
        oldest, batch_size = 0, self._config.batch_size
        if self._config.max_policy_lag is not None:
            under_way = self.queue.num_unsettled // batch_size
            oldest = self._updates + under_way - self._config.max_policy_lag
        return self.queue.get(batch_size, timeout_s, oldest)

    def _would_be_dropped(self, new: int, promised: int) -> bool:
        """Whether unrolls that begin now would be too old when their turn comes, by ``max_policy_lag``.

        Args:
            new: unrolls that would begin.
            promised: unrolls under way.
        """
        lag, batch_size = self._config.max_policy_lag, self._config.batch_size
        ahead = self.queue.account.queued + promised
        # What is short of a batch is waited for by the learner, whatever becomes of the rest.
        return lag is not None and ahead >= batch_size and ahead + new > (lag + 1) * batch_size

    def _round_is_complete(self) -> bool:
        """In lock-step the learner starts when every slot's unroll is in, so that their order is fixed.

        A round that leaves the queue short of a batch is followed by another with the same parameters.
        """
        rounds, begun = divmod(self.queue.account.accepted, self.total_slots)
        if begun:
            return False
        if self.queue.num_waiting < self._config.batch_size:
            self.store.count_up_to(rounds + 1)
            return False
        return True

    def scale(self, actors: int | Literal["auto"]) -> None:
        """Have so many actors from now on.

        Raises:
            UserError: only the place ``ray`` can.
        """
        raise UserError(f"actors={actors}: place {self._runtime.place} keeps its actors; only place ray can be scaled")

    @abstractmethod
    def drain_episodes(self) -> Iterator[Episode]:
        """Episodes that ended since the last call."""

    @abstractmethod
    def drain_games(self) -> Iterator[GameResult]:
        """Games of several agents that ended since the last call."""

    @abstractmethod
    def stats(self) -> PlaneStats:
        """The account, the time shares, the faults and the actors so far."""

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


class InProcessPlane(Plane):
    """A plane whose actors live in this process."""

    def __init__(
        self,
        setup: ActorSetup,
        runtime: RuntimeConfig,
        config: PlaneConfig,
        make_stepper: Callable[[SlotEnv], Stepper],
        *,
        bounded: bool,
    ) -> None:
        super().__init__(setup, runtime, config, bounded=bounded)
        self._builder = ActorBuilder(setup, make_stepper, self.queue, self._note_fault, in_order=not bounded)
        self._actors: list[Actor] = []

    def drain_episodes(self) -> Iterator[Episode]:
        """Episodes that ended since the last call."""
        for actor in self._actors:
            yield from actor.drain_episodes()

    def drain_games(self) -> Iterator[GameResult]:
        """Games of several agents that ended since the last call."""
        for actor in self._actors:
            yield from actor.drain_games()

    def stats(self) -> PlaneStats:
        """The account, the time shares, the faults and the actors so far."""
        shares = merged_seconds(actor.shares.seconds() for actor in self._actors)
        status = tuple(
            ActorStatus(number, THIS_MACHINE, "collecting", actor.num_slots, 0, 0.0, actor.env_steps, actor.speed)
            for number, actor in enumerate(self._actors)
        )
        return PlaneStats(self.queue.account, shares, *self._faults_so_far(), self._builder.slots_started, status)
