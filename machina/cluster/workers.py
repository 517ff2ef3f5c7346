"""What runs in the processes of a Ray cluster: actors, learner ranks, and the driver's end of a rank."""

from __future__ import annotations

import os
import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import ray

from machina.actors.actor import Actor, Fault
from machina.actors.actor_builder import ActorBuilder, ActorSetup
from machina.actors.stepping import ThreadStepper
from machina.buffers.buffer import Handover, Part, joined
from machina.buffers.parameters import PublishedParameters
from machina.buffers.unrolls import slice_slots
from machina.handles import HandleFaultError, as_answer
from machina.hardware import tune_process
from machina.learner.learner_rank import LearnerRank, RankSetup, free_port
from machina.processes import RUN_MARK, end_started_by, seed_generators
from machina.types import Array, BoolArray, Episode, GameResult, IntArray, Learned, Unroll

FETCH_TIMEOUT_S = 60.0
"""How long a learner rank waits for the unrolls of a batch that lie on other nodes."""

MEETING_TIMEOUT_S = 60.0
"""How long the driver waits for the first learner rank's process."""


class RoundReport(NamedTuple):
    """What an actor says of a round; the unroll itself stays in its node's object store."""

    order: int | None
    """Position of its unroll among queued ones; None is arrival order."""
    policy_version: int
    episodes: tuple[Episode, ...]
    games: tuple[GameResult, ...]
    faults: tuple[Fault, ...]
    seconds: dict[str, float]
    """Per activity since the actor's start."""
    env_steps: int
    """Since the actor's start."""
    speed: float
    """Env steps per second, mean since the actor's start."""
    counters: dict[str, Array]


class Life(NamedTuple):
    """A sign of life of an actor, also while a round runs."""

    slots_started: int
    """Environments built so far, replacements included."""
    steps: int
    """Of all groups; it is alive as long as this grows."""
    faults: tuple[Fault, ...]
    """Since the last sign or report: an environment that fails in every unroll lets no round end."""


def _restarts(state: dict[str, Array]) -> list[Array]:
    return [array for key, array in sorted(state.items()) if key.endswith("/restarts")]


class ActorProcess:
    """A process with one actor.

    Args:
        prepare: makes this process like the driver's (registered names); called first.
        setup: what the actor is built from.
        slots: indices of its slots, one array per group.
        state: counters of the actor that it replaces, or of a former session.
    """

    def __init__(
        self, prepare: Callable[[], None], setup: ActorSetup, slots: Sequence[IntArray], state: dict[str, Array]
    ) -> None:
        prepare()
        tune_process(setup.torch_threads)
        # Environments share this process's generators; those of an actor that was replaced continue with others.
        seed_generators(setup.seed, *(int(group[0]) for group in slots), *(int(each) for each in _restarts(state)))
        self._handovers: list[Handover] = []
        self._faults: deque[Fault] = deque()
        """Filled by the actor's thread, drained by it and by the one that watches."""
        self._builder = ActorBuilder(
            setup, lambda env: ThreadStepper(env, lambda message: self._note(Fault(message))), self, self._note
        )
        self._slots = slots
        self._state = state
        self._actor: Actor | None = None

    def _note(self, fault: Fault) -> None:
        self._faults.append(fault)

    def _drain_faults(self) -> tuple[Fault, ...]:
        faults: list[Fault] = []
        with suppress(IndexError):  # of a deque that is empty
            while True:
                faults.append(self._faults.popleft())
        return tuple(faults)

    def put(self, handover: Handover) -> None:
        """Take in an unroll of the round."""
        self._handovers.append(handover)

    def start(self) -> tuple[str, str]:
        """Build the environments; returns the node's id and address."""
        self._actor = self._builder.build(self._slots, self._state)
        return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()

    @ray.method(num_returns=2)
    def run_round(
        self, policy_version: int, flat: Array, done: float, publication: int, opponents: Any
    ) -> tuple[RoundReport, Unroll[Array]]:
        """A report, and an unroll of all slots with these parameters."""
        import torch  # not at the top: processes that only read reports do without

        actor = self._actor
        assert actor is not None
        actor.run_round(PublishedParameters(policy_version, torch.from_numpy(flat), done, publication, opponents))
        handovers = sorted(self._handovers, key=lambda handover: int(handover.unroll.slot[0]))
        # One object for all groups: Ray's messages about a second one take more than this copy (docs/benchmarks.md).
        unroll = joined([Part(handover.unroll, 0, handover.num_slots) for handover in handovers])
        for handover in handovers:
            handover.release()
        self._handovers = []
        report = RoundReport(
            order=handovers[0].order,
            policy_version=policy_version,
            episodes=tuple(actor.drain_episodes()),
            games=tuple(actor.drain_games()),
            faults=self._drain_faults(),
            seconds=actor.shares.seconds(),
            env_steps=actor.env_steps,
            speed=actor.speed,
            counters=actor.counters(),
        )
        return report, unroll

    @ray.method(concurrency_group="watch")
    def life(self) -> Life:
        """Answered while a round runs."""
        steps = 0 if self._actor is None else self._actor.steps
        return Life(self._builder.slots_started, steps, self._drain_faults())

    @ray.method(concurrency_group="watch")
    def close(self) -> None:
        """Close the environments, also while a round runs, and end what they started and left."""
        if self._actor is not None:
            self._actor.close()
        end_started_by([os.getpid()], RUN_MARK, ())


def shared_parameters(reference: Any) -> Any:
    """A copy of the flat vector that lies in the object store: PyTorch warns of memory that must not be written."""
    import torch

    return torch.from_numpy(ray.get(reference, timeout=FETCH_TIMEOUT_S).copy())


class RankWorker:
    """A process with one learner rank; it fetches the next batch while it learns from the one before."""

    def __init__(self, prepare: Callable[[], None], threads: int) -> None:
        prepare()
        tune_process(threads)
        self._fetched: queue.SimpleQueue[tuple[Unroll[Array] | None, BoolArray]] = queue.SimpleQueue()
        """Unrolls that came, and ``[B]`` which of the batch's slots they are."""
        self._template: Unroll[Array] | None = None
        self._setup: RankSetup | None = None
        self._rank: LearnerRank | None = None

    def meeting_point(self) -> str:
        """Where the ranks of a group find one another, when this is the first."""
        return f"tcp://{ray.util.get_node_ip_address()}:{free_port()}"

    def begin(self, setup: RankSetup) -> None:
        """What the learner is built from."""
        self._setup = setup

    @ray.method(concurrency_group="fetch")
    def fetch(self, parts: Sequence[Part]) -> None:
        """Bring the parts of a batch here; those that are lost with their node are left out."""
        got: list[Part] = []
        came: list[BoolArray] = []
        deadline = time.monotonic() + FETCH_TIMEOUT_S
        # All at once: 16 unrolls take twice as long one after the other, more over a network (docs/benchmarks.md).
        ray.wait([part.unroll for part in parts], num_returns=len(parts), timeout=FETCH_TIMEOUT_S)
        for part in parts:
            try:
                unroll = ray.get(part.unroll, timeout=max(0.0, deadline - time.monotonic()))
            except ray.exceptions.RayError:
                came.append(np.zeros(part.stop - part.start, np.bool_))
                continue
            came.append(np.ones(part.stop - part.start, np.bool_))
            got.append(part._replace(unroll=unroll))
        batch = self._template
        if got:
            batch = joined(got)
            self._template = slice_slots(batch, 0, 0)
        self._fetched.put((batch, np.concatenate(came)))

    def update(self, done: float, publishes: bool) -> tuple[Learned, Array | None]:
        """One update from the batch that was fetched first."""
        try:
            unroll, came = self._fetched.get(timeout=2 * FETCH_TIMEOUT_S)
        except queue.Empty:
            raise HandleFaultError(f"the batch did not arrive within {2 * FETCH_TIMEOUT_S:g} s") from None
        if unroll is None:
            raise HandleFaultError("all unrolls of the first batch were lost")
        learned, flat = self._learner().update_from(unroll, done, publishes)
        return learned_of_all(learned, came), None if flat is None else flat.numpy()

    def parameters(self) -> tuple[None, Array | None]:
        """The parameters as they are."""
        flat = self._learner().parameters()[1]
        return None, None if flat is None else flat.numpy()

    def call(self, method: str, *arguments: Any) -> Any:
        """Any other method of ``LearnerRank``."""
        return getattr(self._learner(), method)(*arguments)

    def _learner(self) -> LearnerRank:
        if self._rank is None:
            assert self._setup is not None
            self._rank = LearnerRank(self._setup)
        return self._rank


def learned_of_all(learned: Learned, came: BoolArray) -> Learned:
    """What an update came to for a whole share of a batch, of which only some slots could be fetched.

    Args:
        learned: of the slots that came.
        came: ``[B]``, which they are.
    """
    priorities = learned.priorities
    if priorities is not None:
        priorities = np.full(len(came), np.nan, np.float32)
        priorities[came] = learned.priorities
    return learned._replace(lost=int((~came).sum()), priorities=priorities)


class RayHandle:
    """The driver's end of an object in a process of the cluster; implements ``machina.handles.Handle``.

    Args:
        name: for messages.
        actor: of Ray, whose method ``call`` makes a call by name.
    """

    def __init__(self, name: str, actor: Any) -> None:
        self.name = name
        self.actor = actor
        self._answers: deque[tuple[Any, Any]] = deque()
        """References to an answer, and to what of it stays in the object store, if anything does."""

    def call(self, method: str, *arguments: Any) -> None:
        """Ask for a method."""
        self._answers.append((self.actor.call.remote(method, *arguments), None))

    def has_answered(self, timeout_s: float) -> bool:
        """Whether the answer, or the process's death, is known."""
        return bool(ray.wait([self._answers[0][0]], timeout=timeout_s)[0])

    def answer(self) -> Any:
        """What the oldest unanswered call came to."""
        answer, kept_there = self._answers.popleft()
        try:
            result = ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            raise as_answer(error.cause if isinstance(error.cause, Exception) else error, self.name) from error
        except ray.exceptions.RayError as error:
            line = str(error).strip().partition("\n")[0]
            raise HandleFaultError(f"{self.name} died ({type(error).__name__}: {line})", died=True) from error
        return result if kept_there is None else (result, kept_there)

    def kill(self) -> None:
        """End the process."""
        ray.kill(self.actor)


class RayRank(RayHandle):
    """A learner rank's; the batch is fetched ahead, and the parameters that it returns stay in the object store."""

    def call(self, method: str, *arguments: Any) -> None:
        """Ask for a method of ``LearnerRank``."""
        if method == "update":
            parts, done, publishes = arguments
            self.actor.fetch.remote(parts)
            self._answers.append(tuple(self.actor.update.options(num_returns=2).remote(done, publishes)))
        elif method == "parameters":
            self._answers.append(tuple(self.actor.parameters.options(num_returns=2).remote()))
        else:
            super().call(method, *arguments)


def start_ray_ranks(
    prepare: Callable[[], None], make_learner: Callable[[int, int, str | None], Any], size: int, threads: int, gpus: int
) -> list[RayRank]:
    """Start the learner ranks, a GPU each where there are GPUs, else on this node as long as it lives.

    Raises:
        HandleFaultError: the first rank's process does not answer.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    options: dict[str, Any] = {"num_cpus": 0, "num_gpus": gpus}
    if not gpus:
        # A byte, as Ray 2.60 starts an actor without resources on any node, with soft affinity as without.
        options["memory"] = 1
        here = ray.get_runtime_context().get_node_id()
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(here, soft=True)
    as_actor: Any = ray.remote(concurrency_groups={"fetch": 1})  # type: ignore[call-overload]  # not in Ray's types
    remote = as_actor(RankWorker).options(**options)
    ranks = [RayRank(f"learner rank {index}", remote.remote(prepare, threads)) for index in range(size)]
    rendezvous: str | None = None
    if size > 1:
        try:
            rendezvous = ray.get(ranks[0].actor.meeting_point.remote(), timeout=MEETING_TIMEOUT_S)
        except ray.exceptions.RayError as error:
            raise HandleFaultError(f"learner rank 0 does not start ({type(error).__name__})") from error
    for index, rank in enumerate(ranks):
        rank.actor.begin.remote(RankSetup(make_learner, index, size, rendezvous))
    return ranks
