"""Builds actors: environments, steppers, groups of slots, policy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from machina.actors.actor import Actor, Fault, UnrollSink
from machina.actors.slot_group import SlotGroup, group_key
from machina.actors.stepping import Stepper, build_env
from machina.errors import EnvironmentFaultError, RunFailedError
from machina.interfaces import EnvFactory, Opponents, Policy, SlotEnv
from machina.specs import ArraySpec
from machina.types import Array, IntArray, section


class ActorSetup(NamedTuple):
    """What every actor of a run is built from; travels pickled."""

    factory: EnvFactory
    make_policy: Callable[[], Policy]
    unroll_length: int
    policy_outputs: Mapping[str, ArraySpec]
    """What policies leave in unrolls, see ``Algorithm.policy_outputs``."""
    seed: int
    step_timeout_s: float
    lock_step: bool
    torch_threads: int
    """Torch threads of each actor."""
    yields: bool = False
    """In the learner's process: actors have a lower priority; see ``machina.hardware.yield_to_learner``."""
    make_opponents: Callable[[], Opponents] | None = None
    """Other players in games of several agents, one object per actor; None where the policy only plays itself."""


def opponents_key(slots: Sequence[IntArray]) -> str:
    """Prefix of the arrays of an actor's opponents in the actors' state."""
    return f"opponents{int(slots[0][0])}/"


class ActorBuilder:
    """Builds the actors of one process.

    Args:
        setup: of the run.
        make_stepper: decides how environments are stepped.
        sink: where the actors' unrolls go.
        on_fault: called for every environment that failed; may raise to stop the run.
        in_order: one group after the other, so that those that share the process's random generators repeat.
    """

    def __init__(
        self,
        setup: ActorSetup,
        make_stepper: Callable[[SlotEnv], Stepper],
        sink: UnrollSink,
        on_fault: Callable[[Fault], None],
        in_order: bool = False,
    ) -> None:
        self._setup = setup
        self._in_order = in_order
        self._make_stepper = make_stepper
        self._sink = sink
        self._on_fault = on_fault
        self._lock = threading.Lock()
        self._building = threading.Lock()
        self.slots_started = 0
        """Environments built so far, replacements included."""

    def build(self, slots: Sequence[IntArray], state: dict[str, Array], opponents_view: Any = None) -> Actor:
        """An actor with its environments started.

        Args:
            slots: indices in the whole run, one array per group.
            state: of a former session's groups, by ``group_key``, and of its opponents.
            opponents_view: whom the first games may be against, see ``PublishedParameters.opponents``.

        Raises:
            UserError: an environment can't be built.
            RunFailedError: an environment can't start its first episode.
        """
        policy = self._setup.make_policy()
        opponents = None if self._setup.make_opponents is None else self._setup.make_opponents()
        if opponents is not None:
            opponents.load(opponents_view)
            if kept := section(state, opponents_key(slots)):
                opponents.load_state(kept)
        # Building an Atari environment holds the interpreter lock, resetting it does not: while one group resets,
        # the next is built (57 games, 4 environments each: measured in docs/benchmarks.md).
        with ThreadPoolExecutor(1 if self._in_order else None) as pool:
            groups = [pool.submit(self._make_group, policy, opponents, group, state) for group in slots]
        failures = [failure for group in groups if (failure := group.exception()) is not None]
        if not failures:
            built = [group.result() for group in groups]
            return Actor(policy, built, self._sink, self._on_fault, ordered=self._setup.lock_step, opponents=opponents)
        for group in groups:
            if group.exception() is None:
                group.result().close()
        if isinstance(failures[0], EnvironmentFaultError):
            raise RunFailedError(f"{failures[0]}; the run can't start") from failures[0]
        raise failures[0]

    def _make_group(
        self, policy: Policy, opponents: Opponents | None, slots: IntArray, state: dict[str, Array]
    ) -> SlotGroup:
        task_ids = [self._setup.factory.spec.task_of(int(slot)) for slot in slots]
        return SlotGroup(
            make_stepper=lambda: self._make_env(task_ids),
            policy=policy,
            opponents=opponents,
            slots=slots,
            seed=self._setup.seed,
            unroll_length=self._setup.unroll_length,
            policy_outputs=self._setup.policy_outputs,
            step_timeout_s=self._setup.step_timeout_s,
            state=section(state, group_key(slots)),
        )

    def _make_env(self, task_ids: list[int]) -> Stepper:
        factory = self._setup.factory
        with self._building:
            return self._make_stepper(
                build_env(
                    lambda: factory.make(task_ids, self._count_started),
                    factory.spec.name,
                    len(task_ids),
                    self._setup.step_timeout_s,
                )
            )

    def _count_started(self, slots: int) -> None:
        with self._lock:
            self.slots_started += slots
