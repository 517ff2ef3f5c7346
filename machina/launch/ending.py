"""When a session of a run ends, and why."""

from __future__ import annotations

import time
from typing import NamedTuple

from machina.checkpoint import RunDirectory
from machina.errors import RunFailedError, UserError, stopped
from machina.launch.configuration import AnyRunConfig
from machina.launch.places import Actors


class Outcome(NamedTuple):
    """How a run ended."""

    reason: str
    env_steps: int
    updates: int


class Ending:
    """The goals of a session, its clock, and what was asked for meanwhile.

    Args:
        config: of the run.
        total_env_steps: length of the schedule.
    """

    def __init__(self, config: AnyRunConfig, total_env_steps: int) -> None:
        self._minutes: float | None = config.minutes
        self._until_return: float | None = config.until_return
        self._total_env_steps = total_env_steps
        self._started: float | None = None
        self.reason: str | None = None
        """Why the session ends; None while it continues."""
        self.interrupted = False
        """Whether a signal asked for the end."""

    def begin(self) -> None:
        """Start the session's clock, which `--minutes` goes by."""
        self._started = time.monotonic()

    @property
    def session_s(self) -> float:
        """Seconds since ``begin``; 0 before."""
        return 0.0 if self._started is None else time.monotonic() - self._started

    def request(self, reason: str) -> None:
        """End at the next opportunity."""
        self.reason = reason
        self.interrupted = True

    def look(self, env_steps: int, mean_return: float | None) -> str | None:
        """Why the session ends, if it does.

        Args:
            env_steps: of the run.
            mean_return: of its latest episodes; None before there are enough.
        """
        met = self._goal_met(env_steps, mean_return)
        if met is not None and self.reason is None:  # a signal that comes meanwhile must not be written over by None
            self.reason = met
        return self.reason

    def _goal_met(self, env_steps: int, mean_return: float | None) -> str | None:
        if env_steps >= self._total_env_steps:
            return "the schedule is complete"
        if self._minutes_are_over:
            return f"{self._minutes:g} minutes are over"
        if self._until_return is not None and mean_return is not None and mean_return >= self._until_return:
            return f"the mean return of the last 100 episodes reached {mean_return:.1f}"
        return None

    @property
    def _minutes_are_over(self) -> bool:
        return self._minutes is not None and self.session_s >= 60 * self._minutes

    def is_due(self) -> bool:
        """Whether the session ends now, also in the middle of an evaluation."""
        return self.interrupted or self._minutes_are_over


def failure_of(error: BaseException, run: RunDirectory, *, has_learned: bool) -> BaseException:
    """What the user reads of an error that ends the run; the stack of an unforeseen one is logged."""
    if isinstance(error, KeyboardInterrupt) or (isinstance(error, UserError) and not has_learned):
        return error
    if isinstance(error, UserError):  # of what was good when the run began, such as a snapshot's file
        return RunFailedError(str(error))
    failure = error if isinstance(error, RunFailedError) else stopped("the run", error)
    if failure.details:
        run.log_fault(str(failure), failure.details)
        failure = RunFailedError(f"{failure}; its stack is in '{run.faults_log}'")
    return failure


def nothing_learned(reason: str, actors: Actors, batch_size: int, run: RunDirectory) -> RunFailedError:
    """The end of a session without an update: how far it came, and what failed."""
    stats, slots = actors.group.stats(), actors.group.total_slots
    text = f"{reason} and nothing was learned: {min(stats.slots_started, slots)} of {slots} environments had started, "
    text += f"{actors.buffer.accepted} of the {batch_size} unrolls of an update were there"
    if stats.faults:
        text += f"; {stats.faults} environments or actors failed, see '{run.faults_log}'"
    return RunFailedError(f"{text}; give it more --minutes")
