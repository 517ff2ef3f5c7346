"""The place ``ray``: actors in the processes of a Ray cluster.

The driver asks every idle actor for a round and hands references to its unrolls to the buffer; the arrays go from the
actor's object store to the learner's. An actor has one round under way at most, and gets none that would leave more
than ``queue_unrolls`` and a round of every actor waiting for the learner.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Literal

import numpy as np
import ray

from machina.actors.actor import Fault
from machina.actors.actor_builder import ActorSetup
from machina.actors.actor_group import ActorGroup, ActorStats
from machina.actors.slot_group import COUNTERS, group_key
from machina.actors.stepping import RESET_TIMEOUT_PER_SLOT_S
from machina.buffers.buffer import Batch, Buffer, Handover
from machina.buffers.parameters import ParameterStore
from machina.cluster.cluster import ray_nodes, room_for_actors
from machina.cluster.remote_actor import Death, RemoteActor
from machina.cluster.workers import ActorProcess, Life, RoundReport
from machina.config import RuntimeConfig
from machina.errors import RunFailedError, UserError, in_one_line, stopped
from machina.metrics import merged_seconds
from machina.types import Array, Episode, GameResult, IntArray

LOOK_S = 1.0
"""How often the driver looks after the number of actors and whether each one moves."""

WAIT_S = 0.05
"""How long the driver waits for a report before it looks for other work."""

IDLE_WAIT_S = 0.005
"""The same while an actor is idle: room for its next round, or the parameters for it, may come at any moment."""

NODE_NEWS_S = 30.0
"""How much later than its actors' deaths Ray may find out that a node is gone (its health checks); an actor that left
with its node is no fault."""

CLOSE_TIMEOUT_S = 10.0
"""How long actors may take to close their environments before their processes are killed."""

START_TIMEOUT_S = 120.0
"""How long a process may take to start, its environments apart."""


class RayActors(ActorGroup):
    """Actors all over a cluster; this process moves references, never data.

    Args:
        setup: what actors are built from.
        runtime: the configuration's section.
        slots: of each actor's groups.
        buffer: where references to unrolls go.
        store: where references to parameters come from.
        prepare: makes an actor's process like this one.
        worker: class of the processes; benchmarks put another one in its place.
    """

    def __init__(
        self,
        setup: ActorSetup,
        runtime: RuntimeConfig,
        slots: list[list[IntArray]],
        buffer: Buffer,
        store: ParameterStore,
        prepare: Callable[[], None],
        worker: type[Any] = ActorProcess,
    ) -> None:
        super().__init__(setup, runtime, slots, buffer, store)
        self._prepare = prepare
        # Once: Ray takes 50 ms to pickle a class, at every decoration.
        as_actor: Any = ray.remote(concurrency_groups={"watch": 1})  # type: ignore[call-overload]  # not in Ray's types
        self._worker = as_actor(worker).options(num_cpus=runtime.cpus_per_actor, scheduling_strategy="SPREAD")
        self._wanted = runtime.actors
        self._remotes: dict[int, RemoteActor] = {}
        self._counters: dict[str, Array] = {}
        self._episodes: deque[Episode] = deque()
        self._games: deque[GameResult] = deque()
        self._former_seconds: list[dict[str, float]] = []
        self._restarts: dict[int, int] = {}
        self._deaths: list[Death] = []
        self._failure: BaseException | None = None
        self._stopping = threading.Event()
        self._looked_at = 0.0
        self._thread = threading.Thread(target=self._dispatch, name="dispatch", daemon=True)

    def start(self, state: dict[str, Array]) -> None:
        """Start as many actors as are wanted."""
        self._counters = {key: array for key, array in state.items() if key.endswith(COUNTERS)}
        self._thread.start()

    def next_batch(self, updates: int, timeout_s: float) -> Batch | None:
        """The next batch of references, or None after ``timeout_s``.

        Raises:
            UserError, RunFailedError: an actor failed for good, or too often.
        """
        if self._failure is not None:
            raise self._failure
        if self._runtime.lock_step and not self._round_is_complete():
            self._stopping.wait(0.001)
            return None
        return self._buffer.take(updates, timeout_s)

    # The dispatcher's thread

    def _dispatch(self) -> None:
        try:
            while not self._stopping.is_set():
                if time.monotonic() - self._looked_at > LOOK_S:
                    self._look_after_actors()
                    self._looked_at = time.monotonic()
                self._hear()
                self._offer_rounds()
        except (UserError, RunFailedError) as error:
            self._failure = error
        except BaseException as error:
            self._failure = stopped("the dispatcher", error)

    def _hear(self) -> None:
        """Take in the reports that have come."""
        awaited = {remote.pending: remote for remote in self._remotes.values() if remote.pending is not None}
        timeout_s = WAIT_S if len(awaited) == len(self._remotes) else IDLE_WAIT_S
        if not awaited:
            self._stopping.wait(timeout_s)
            return
        ready, _ = ray.wait(list(awaited), num_returns=1, timeout=timeout_s, fetch_local=False)
        if ready:
            # All that are ready, in the order of their slots.
            ready, _ = ray.wait(list(awaited), num_returns=len(awaited), timeout=0, fetch_local=False)
        for reference in ready:
            self._take_report(awaited[reference], reference)

    def _take_report(self, remote: RemoteActor, reference: Any) -> None:
        try:
            report = ray.get(reference, timeout=START_TIMEOUT_S)
        except ray.exceptions.ObjectLostError:
            # The parameters went down with their node; there are others as soon as the learner is back.
            remote.pending, remote.state, remote.unroll = None, "waiting", None
            return
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            failed = isinstance(error.cause, RunFailedError)  # an environment, which it names
            reason = str(error.cause) if failed else in_one_line(error.cause)
            self._lose(remote, reason, str(error), its_process=not failed)
            return
        except ray.exceptions.RayActorError as error:
            self._lose(remote, "its process died", str(error))
            return
        except ray.exceptions.RayError as error:
            self._lose(remote, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}", str(error))
            return
        remote.heard_at = remote.moved_at = time.monotonic()
        remote.pending, remote.state = None, "waiting"
        if isinstance(report, RoundReport):
            self._take_round(remote, report)
        else:
            remote.node_id, address = report
            remote.node = node_name(address, remote.node_id)
            remote.slots_started = remote.num_slots

    def _take_round(self, remote: RemoteActor, report: RoundReport) -> None:
        remote.rounds += 1
        remote.env_steps, remote.seconds, remote.speed = report.env_steps, report.seconds, report.speed
        self._counters |= report.counters
        self._episodes.extend(report.episodes)
        self._games.extend(report.games)
        for fault in report.faults:
            self._note_fault(fault)
        first_slot = int(remote.slots[0][0])
        self._buffer.put(
            Handover(remote.unroll, remote.num_slots, report.policy_version, _nothing, first_slot, report.order)
        )
        remote.unroll = None

    def _offer_rounds(self) -> None:
        """Ask idle actors for a round while the buffer admits it."""
        idle = [remote for remote in self._remotes.values() if remote.pending is None]
        if not idle:
            return
        latest = self._store.latest()
        promised = sum(remote.num_slots for remote in self._remotes.values() if remote.state == "collecting")
        slots = self.total_slots
        for remote in sorted(idle, key=lambda each: each.rounds):
            if self._runtime.lock_step:
                if self._store.publications <= remote.rounds:
                    continue
            elif not self._buffer.admits(remote.num_slots, promised, slots):
                continue
            remote.ask(latest)
            promised += remote.num_slots

    # Actors come and go

    def _look_after_actors(self) -> None:
        if self._deaths:
            self._explain_deaths()
        for remote in list(self._remotes.values()):
            self._watch(remote)
        present, wanted = len(self._remotes), self._wanted
        # More than there are CPUs for would wait inside Ray indefinitely.
        room = room_for_actors(ray_nodes(), self._runtime.cpus_per_actor).free
        if wanted == "auto":
            # What an actor takes shows late in the free CPUs: one that starts may not be counted there yet.
            wanted = present + (0 if any(remote.state == "starting" for remote in self._remotes.values()) else room)
        for index in sorted(self._remotes, reverse=True)[: max(0, present - wanted)]:
            self._retire(self._remotes[index])
        free = itertools.filterfalse(self._remotes.__contains__, itertools.count())
        for _ in range(min(wanted - present, room)):
            self._add(next(free))

    def _watch(self, remote: RemoteActor) -> None:
        """Give up an actor that makes no progress."""
        now = time.monotonic()
        if remote.watched is not None:
            ready, _ = ray.wait([remote.watched], timeout=0)
            if ready:
                try:
                    life: Life = ray.get(ready[0], timeout=START_TIMEOUT_S)
                except ray.exceptions.RayError:
                    return  # what is awaited of it fails as well, and is dealt with there
                remote.watched = None
                remote.heard_at = now
                remote.slots_started = max(remote.slots_started, life.slots_started)
                progress = (life.slots_started, life.steps)
                if progress != remote.progress_made or remote.state == "waiting":
                    remote.progress_made, remote.moved_at = progress, now
                for fault in life.faults:
                    self._note_fault(fault)
        # An actor whose reports come is not asked as well: with hundreds of them that is most of the messages.
        if remote.watched is None and now - remote.heard_at > LOOK_S:
            remote.watched = remote.handle.life.remote()
        patience = 2 * self._runtime.step_timeout_s + RESET_TIMEOUT_PER_SLOT_S * remote.num_slots
        if remote.state == "starting":
            patience += START_TIMEOUT_S
        if now - remote.moved_at > patience:
            self._lose(remote, f"no progress for {patience:g} s", "")

    def _add(self, index: int) -> None:
        slots = self._slots_of(index)
        state = {
            key: array for group in slots for key, array in self._counters.items() if key.startswith(group_key(group))
        }
        handle = self._worker.remote(self._prepare, self._setup, slots, state)
        self._remotes[index] = RemoteActor(index, slots, self._restarts.get(index, 0), handle)

    def _slots_of(self, index: int) -> list[IntArray]:
        """An actor that comes later brings as many slots as the first one, with numbers of its own."""
        while index >= len(self._slots):
            first = self._slots[-1][-1][-1] + 1
            groups = [len(group) for group in self._slots[0]]
            bounds = first + np.cumsum([0, *groups])
            self._slots.append([np.arange(*pair, dtype=np.int64) for pair in itertools.pairwise(bounds)])
        return self._slots[index]

    @property
    def total_slots(self) -> int:
        """Environments of the actors that are there; before the start, of those configured."""
        remotes = list(self._remotes.values())
        return sum(remote.num_slots for remote in remotes) if remotes else super().total_slots

    def _retire(self, remote: RemoteActor) -> None:
        """End an actor that is not wanted any more; the round under way is lost."""
        self._forget(remote)
        ray.kill(remote.handle)

    def _lose(self, remote: RemoteActor, reason: str, details: str, *, its_process: bool = True) -> None:
        """Give up an actor; another one takes its slots when there is a CPU for it.

        Args:
            remote: the actor.
            reason: what is reported.
            details: for the log.
            its_process: whether that may have gone with its node, which is known later only.
        """
        self._forget(remote)
        ray.kill(remote.handle)
        self._restarts[remote.index] = remote.restarts + 1
        under_way = self._setup.unroll_length * remote.num_slots if remote.state == "collecting" else 0
        fault = Fault(f"actor {remote.index}: {reason}", under_way, details)
        if its_process:
            self._deaths.append(Death(time.monotonic(), remote, fault, _living_nodes()))
        else:
            self._note_fault(fault)

    def _explain_deaths(self) -> None:
        """Report lost actors: a fault, or gone with their node."""
        living = _living_nodes()
        for death in list(self._deaths):
            # One that died while it started has not said where; it may have been on a node that left meanwhile.
            homes = {death.remote.node_id} if death.remote.node_id else death.living
            left = not homes <= living
            if not left and time.monotonic() - death.at < NODE_NEWS_S:
                continue
            self._deaths.remove(death)
            if left:
                message = f"actor {death.remote.index}: node {death.remote.node or 'it started on'} has left"
                self._note_fault(death.fault._replace(message=message, counts=False))
            else:
                self._note_fault(death.fault)

    def _forget(self, remote: RemoteActor) -> None:
        del self._remotes[remote.index]
        self._former_seconds = [merged_seconds([*self._former_seconds, remote.seconds])]
        # The counters were those at its last report: numbers drawn since then must not come again.
        for group in remote.slots:
            key = group_key(group) + "drawn"
            if key in self._counters:
                self._counters[key] = self._counters[key] + self._setup.unroll_length

    def note_loss(self, message: str) -> None:
        """A part of the run that is no actor was lost, and another one is there.

        Raises:
            RunFailedError: there were too many faults.
        """
        self._note_fault(Fault(message))

    # What the trainer asks

    def scale(self, actors: int | Literal["auto"]) -> None:
        """Have this many actors from now on."""
        self._wanted = actors

    def drain_episodes(self) -> Iterator[Episode]:
        """Episodes that ended since the last call."""
        while self._episodes:
            yield self._episodes.popleft()

    def drain_games(self) -> Iterator[GameResult]:
        """Games of several agents that ended since the last call."""
        while self._games:
            yield self._games.popleft()

    def stats(self) -> ActorStats:
        """The time shares, the faults and the actors so far."""
        remotes = sorted(self._remotes.values(), key=lambda remote: remote.index)
        shares = merged_seconds([*self._former_seconds, *(remote.seconds for remote in remotes)])
        started = sum(remote.slots_started for remote in remotes)
        status = tuple(remote.status() for remote in remotes)
        faults, cut = self._faults_so_far()
        cut += sum(death.fault.env_steps_cut for death in list(self._deaths))
        return ActorStats(shares, faults, cut, started, status)

    def state(self) -> dict[str, Array]:
        """Counters that keep the random streams from repeating; episodes restart on resume."""
        return dict(self._counters)

    def unrolls_at_hand(self) -> int:
        """Those that wait for the learner, and the one that every slot fills."""
        return self._buffer.num_queued + self.total_slots

    def close(self) -> None:
        """Stop the actors, and let them close their environments."""
        self._stopping.set()
        self._buffer.close()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        handles = [remote.handle for remote in list(self._remotes.values())]
        if handles:
            with suppress(ray.exceptions.RayError):  # the cluster may be gone
                ray.wait([each.close.remote() for each in handles], num_returns=len(handles), timeout=CLOSE_TIMEOUT_S)
        for handle in handles:
            ray.kill(handle)


def node_name(address: str, node_id: str) -> str:
    """How a node is named to people; several may have one address."""
    return f"{address} ({node_id[:6]})"


def _living_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _nothing() -> None:
    """A reference needs no giving back."""
