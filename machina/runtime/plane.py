"""What every place of the data plane has in common: its parts, its account, its faults.

``machina.runtime.inline`` runs the actors in the caller's thread when the queue runs dry;
``machina.runtime.local`` gives each actor a thread. Actors, queue and parameter store are the same.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from machina.config import RuntimeConfig
from machina.errors import EnvironmentFaultError, RunFailedError, UserError
from machina.interfaces import EnvFactory, Policy, SlotEnv
from machina.metrics import merged_seconds
from machina.runtime.actor import Actor, Fault
from machina.runtime.group import SlotGroup
from machina.runtime.parameters import ParameterStore
from machina.runtime.queue import QueueAccount, UnrollQueue
from machina.runtime.stepping import Stepper
from machina.runtime.unrolls import section
from machina.types import Array, Episode, IntArray, Unroll

if TYPE_CHECKING:
    from torch import Tensor

GROUPS_PER_ACTOR = 2
"""One steps while the policy answers for the other."""


class PlaneConfig(NamedTuple):
    """What the plane needs beyond the runtime section."""

    unroll_length: int
    batch_size: int
    envs_per_task: int
    seed: int
    actor_threads: int
    """Torch threads of each actor."""


class PlaneStats(NamedTuple):
    """A moment of the plane's life."""

    account: QueueAccount
    shares: dict[str, float]
    """Seconds per activity, summed over actors."""
    faults: int
    env_steps_cut: int
    slots_started: int
    """Environments built so far, replacements included."""


def assign_slots(num_tasks: int, envs_per_task: int, actors: int) -> list[list[IntArray]]:
    """Indices of the slots of each actor's groups.

    Slot i has task ``i % num_tasks``, so neighbours in a batch are different games and every game
    gets the same share of frames.

    Raises:
        UserError: more actors than slots.
    """
    total = num_tasks * envs_per_task
    if total < actors:
        raise UserError(f"actors={actors}: only {total} environments to step; use fewer actors or more --envs-per-task")
    groups = GROUPS_PER_ACTOR if total >= GROUPS_PER_ACTOR * actors else 1
    chunks = [chunk.astype(np.int64) for chunk in np.array_split(np.arange(total), actors * groups)]
    return [chunks[i * groups : (i + 1) * groups] for i in range(actors)]


def queue_capacity(num_tasks: int, runtime: RuntimeConfig, config: PlaneConfig) -> int:
    """Most unrolls that may wait for the learner.

    The default is the least that cannot block: a batch but one, and the largest group's next unroll.

    Raises:
        UserError: ``queue_unrolls`` is too small for the learner ever to get a batch.
    """
    slots = assign_slots(num_tasks, config.envs_per_task, runtime.actors)
    if runtime.lock_step:
        return config.batch_size + num_tasks * config.envs_per_task
    largest = max(len(group) for groups in slots for group in groups)
    smallest = config.batch_size + largest - 1
    if runtime.queue_unrolls is not None and runtime.queue_unrolls < smallest:
        raise UserError(
            f"queue_unrolls={runtime.queue_unrolls}: actors hand over up to {largest} unrolls at once and the learner "
            f"takes {config.batch_size}; use at least {smallest}"
        )
    return runtime.queue_unrolls or smallest


class Plane(ABC):
    """What both places share: the parts, the account, the episodes and the faults."""

    def __init__(
        self,
        factory: EnvFactory,
        make_policy: Callable[[], Policy],
        runtime: RuntimeConfig,
        config: PlaneConfig,
        make_stepper: Callable[[SlotEnv], Stepper],
        capacity: int | None,
    ) -> None:
        self._factory = factory
        self._make_policy = make_policy
        self._runtime = runtime
        self._config = config
        self._make_stepper = make_stepper
        self._slots = assign_slots(factory.spec.num_tasks, config.envs_per_task, runtime.actors)
        self._initial: dict[str, Array] = {}
        self.total_slots = factory.spec.num_tasks * config.envs_per_task
        self.store = ParameterStore()
        self.queue = UnrollQueue(capacity)
        self._actors: list[Actor] = []
        self._faults: list[Fault] = []
        self._reported = 0
        self._slots_started = 0
        self._lock = threading.Lock()
        self._building = threading.Lock()

    def _make_group(self, policy: Policy, slots: IntArray) -> SlotGroup:
        task_ids = [int(slot) % self._factory.spec.num_tasks for slot in slots]
        return SlotGroup(
            make_stepper=lambda: self._build(task_ids),
            policy=policy,
            slots=slots,
            seed=self._config.seed,
            unroll_length=self._config.unroll_length,
            step_timeout_s=self._runtime.step_timeout_s,
            state=section(self._initial, group_key(slots)),
        )

    def _build(self, task_ids: list[int]) -> Stepper:
        with self._building:
            return self._make_stepper(self._factory.make(task_ids, self._count_started))

    def _make_actor(self, index: int) -> Actor:
        """An actor with its environments started.

        Raises:
            UserError: an environment can't be built.
            RunFailedError: an environment can't start its first episode.
        """
        policy = self._make_policy()
        # Building an Atari environment holds the interpreter lock, resetting it does not: while one group resets,
        # the next is built (57 games, 4 environments each: measured in docs/benchmarks.md).
        with ThreadPoolExecutor() as pool:
            groups = [pool.submit(self._make_group, policy, slots) for slots in self._slots[index]]
        failures = [failure for group in groups if (failure := group.exception()) is not None]
        if not failures:
            built = [group.result() for group in groups]
            return Actor(policy, built, self.queue, self._note_fault, ordered=self._runtime.lock_step)
        for group in groups:
            if group.exception() is None:
                group.result().close()
        if isinstance(failures[0], EnvironmentFaultError):
            raise RunFailedError(f"{failures[0]}; the run can't start") from failures[0]
        raise failures[0]

    def _count_started(self, slots: int) -> None:
        with self._lock:
            self._slots_started += slots

    def _note_fault(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)
            count = len(self._faults)
        if count > self._runtime.max_restarts:
            raise RunFailedError(f"{fault.message}; environments failed {count} times (max_restarts)")

    @abstractmethod
    def start(self, state: dict[str, Array]) -> None:
        """Start the actors; ``state`` is empty for a new run."""

    @abstractmethod
    def next_batch(self, timeout_s: float) -> Unroll[Array] | None:
        """The next batch, or None when there is none after ``timeout_s``."""

    @abstractmethod
    def state(self) -> dict[str, Array]:
        """What a checkpoint keeps of the actors, as named arrays."""

    @abstractmethod
    def unrolls_at_hand(self) -> int:
        """Unrolls, full or begun, that ``state`` does not keep: lost when the run goes on from there."""

    @abstractmethod
    def close(self) -> None:
        """Stop the actors and close the environments."""

    def publish(self, policy_version: int, flat: Tensor) -> None:
        """Make new parameters visible; in lock-step only when the round's last batch is learned."""
        if self._runtime.lock_step and self.queue.account.queued >= self._config.batch_size:
            return
        self.store.publish(policy_version, flat)

    def drain_episodes(self) -> Iterator[Episode]:
        """Episodes that ended since the last call."""
        for actor in self._actors:
            for group in actor.groups:
                while group.finished_episodes:
                    yield group.finished_episodes.popleft()

    def drain_faults(self) -> list[str]:
        """Faults since the last call, a line each."""
        with self._lock:
            new = [fault.message for fault in self._faults[self._reported :]]
            self._reported = len(self._faults)
        return new

    def stats(self) -> PlaneStats:
        """The account, the time shares and the faults so far."""
        shares = merged_seconds(actor.shares for actor in self._actors)
        with self._lock:
            cut = sum(fault.env_steps_cut for fault in self._faults)
            return PlaneStats(self.queue.account, shares, len(self._faults), cut, self._slots_started)


def group_key(slots: IntArray) -> str:
    """Prefix of a group's arrays in the plane's state."""
    return f"slot{int(slots[0])}/"
