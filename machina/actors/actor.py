"""The actor: two groups of environments as a rule, one policy.

While one group's environments step, the policy acts for the other::

    group 0   act ─▶ step ─────────▶ act ─▶ step ────────▶ …
    group 1          act ─▶ step ─────────▶ act ─▶ step ─▶ …
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from machina.actors.slot_group import SlotGroup, group_key
from machina.buffers.buffer import Handover
from machina.buffers.parameters import PublishedParameters
from machina.errors import EnvironmentFaultError, RunFailedError, UserError
from machina.interfaces import Opponents, Policy
from machina.metrics import TimeShares
from machina.types import Array, Episode, GameResult


class Fault(NamedTuple):
    """An environment or an actor that was replaced."""

    message: str
    env_steps_cut: int = 0
    """Env steps of the unfinished unroll that was lost."""
    details: str = ""
    """Stack of what hung or raised, for the run's log of faults."""
    counts: bool = True
    """Against max_restarts; an actor that leaves with its node does not."""
    is_remark: bool = False
    """Nothing was replaced; the user should know nevertheless."""


class UnrollSink(Protocol):
    """Where an actor's full unrolls go: the buffer, or what carries them there."""

    def put(self, handover: Handover) -> None: ...


class Actor:
    """Collects one unroll per group and round, and hands it to the buffer.

    Args:
        policy: the behaviour policy; it acts for all groups.
        groups: built by the caller, so that it chooses how environments are stepped.
        sink: where full unrolls go.
        on_fault: called for every environment that failed, before it is replaced; may raise to stop the run.
        ordered: order unrolls by round and slot instead of arrival (lock-step mode).
        opponents: other players in the groups' games.
    """

    def __init__(
        self,
        policy: Policy,
        groups: Sequence[SlotGroup],
        sink: UnrollSink,
        on_fault: Callable[[Fault], None],
        ordered: bool,
        opponents: Opponents | None = None,
    ) -> None:
        self._policy = policy
        self.opponents = opponents
        self.groups = groups
        self._sink = sink
        self._on_fault = on_fault
        self._ordered = ordered
        self._policy_version = self._publication = -1
        self._in_round = False
        self._resting: list[SlotGroup] = []
        """Groups in the middle of an unroll that have not acted on their newest entry yet."""
        self.is_broken = False
        """Whether an error ended a round; of its groups only the counters are worth keeping then."""
        self.rounds = 0
        self.env_steps = 0
        """Handed over, reset steps included."""
        self.steps = 0
        """Steps of all groups, by which others see whether it moves."""
        self.shares = TimeShares()
        self._born = time.monotonic()

    def run_round(self, parameters: PublishedParameters, deadline: float = math.inf) -> bool:
        """Load ``parameters`` if they are new and collect one unroll per group with them.

        Args:
            parameters: the same as before when a round continues.
            deadline: of ``time.monotonic()``; looked at between steps.

        Returns:
            Whether the round is complete; if not, the next call continues it.

        Raises:
            RunFailedError: an environment's replacement failed as well, or ``on_fault`` gave up.
            BufferClosedError: the run is stopping.
        """
        try:
            return self._continue(parameters, deadline)
        except BaseException:
            self.is_broken = True
            raise

    def _continue(self, parameters: PublishedParameters, deadline: float) -> bool:
        if not self._in_round:
            self._begin_round(parameters)
        for group in self._resting:
            self._act(group)
        self._resting = []
        while unfinished := [group for group in self.groups if not group.full]:
            for group in unfinished:
                if not self._receive(group):
                    self._act(group)
            if time.monotonic() >= deadline:
                return False
        self._in_round = False
        self.rounds += 1
        return True

    def _begin_round(self, parameters: PublishedParameters) -> None:
        if parameters.publication != self._publication:
            self._policy.load_parameters(parameters.flat, parameters.done)
            self._policy_version, self._publication = parameters.policy_version, parameters.publication
        if self.opponents is not None:
            self.opponents.load(parameters.opponents)
        for group in self.groups:
            group.open_unroll(self._policy_version)
        self._in_round = True
        self._resting = list(self.groups)

    def rest(self) -> int:
        """Bring a round under way to the end of a step, so that the groups' state can be taken.

        Returns:
            Slots whose unroll is open.

        Raises:
            RunFailedError: see ``run_round``.
        """
        if not self.is_broken and self._in_round and not self._resting:
            try:
                self._resting = [group for group in self.groups if not group.full and not self._receive(group)]
            except BaseException:
                self.is_broken = True
                raise
        open_groups = [group for group in self.groups if not group.full] if self.is_broken else self._resting
        return sum(len(group.slots) for group in open_groups)

    def _act(self, group: SlotGroup) -> None:
        with self.shares.measure("acting"):
            group.act()

    def _receive(self, group: SlotGroup) -> bool:
        """Take what the environment returned, and hand over the unroll if that makes it full; whether it did."""
        try:
            with self.shares.measure("env"):
                group.receive()
        except EnvironmentFaultError as fault:
            self._replace(group, fault)
        self.steps += 1
        if group.remark:
            self._on_fault(Fault(group.remark, counts=False, is_remark=True))
            group.remark = ""
        if group.full:
            unroll, release = group.finish_unroll()
            order = self.rounds << 32 | int(group.slots[0]) if self._ordered else None
            with self.shares.measure("waiting"):
                self._sink.put(
                    Handover(unroll, len(group.slots), self._policy_version, release, int(group.slots[0]), order)
                )
            self.env_steps += group.filled * len(group.slots)
        return group.full

    def _replace(self, group: SlotGroup, fault: EnvironmentFaultError) -> None:
        self._on_fault(Fault(str(fault), group.filled * len(group.slots), fault.details))
        try:
            group.replace(self._policy_version)
        except (EnvironmentFaultError, UserError) as again:
            raise RunFailedError(f"{fault}; its replacement failed as well: {again}") from again

    @property
    def speed(self) -> float:
        """Env steps handed over per second, mean since the start."""
        return self.env_steps / (time.monotonic() - self._born)

    @property
    def num_slots(self) -> int:
        """Of all groups."""
        return sum(len(group.slots) for group in self.groups)

    def drain_episodes(self) -> Iterator[Episode]:
        """Episodes that ended since the last call."""
        for group in self.groups:
            while group.finished_episodes:
                yield group.finished_episodes.popleft()

    def drain_games(self) -> Iterator[GameResult]:
        """Games of several agents that ended since the last call."""
        for group in self.groups:
            while group.finished_games:
                yield group.finished_games.popleft()

    def counters(self) -> dict[str, Array]:
        """What keeps random streams from repeating when the actor starts again, by group."""
        return {group_key(group.slots) + key: array for group in self.groups for key, array in group.counters().items()}

    def close(self) -> None:
        """Close the environments."""
        for group in self.groups:
            group.close()
