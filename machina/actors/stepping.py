"""How an environment is built and stepped: in a thread of its own, with a deadline."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from machina.errors import EnvironmentFaultError
from machina.interfaces import SlotEnv
from machina.types import Array, IntArray, StepResult
from machina.waiting import stack_of, within

Job = Callable[[], "StepResult | None"]

STEP_TIMEOUT_S = 5.0
"""How long a running step is waited for before the environment is closed anyway."""

RESET_TIMEOUT_PER_SLOT_S = 2.0
"""A reset plays no-ops in every environment; with hundreds of them on busy cores it takes minutes."""

LEAST_BUILD_TIMEOUT_S = 60.0
"""How long environments may take to be built at least, which may import libraries: that takes as long as many steps."""

CLOSE_TIMEOUT_S = 10.0
"""How long an environment's closing is waited for before the process continues without it."""


class Stepper(Protocol):
    """Sends actions to an environment and receives what comes of them."""

    env: SlotEnv

    def reset(self, seeds: Sequence[int], timeout_s: float) -> StepResult: ...

    def send(self, actions: IntArray) -> None: ...

    def receive(self, timeout_s: float) -> StepResult: ...

    def close(self) -> None: ...


class ThreadStepper:
    """Steps the environment in a thread of its own, so that another group acts meanwhile.

    A step that takes too long is not waited for: the stuck thread is left behind, the environment
    replaces its stuck part (``SlotEnv.recover``), or, when it can't, the caller hears of the fault
    and builds a new environment.

    Args:
        env: the environment; touched by the stepping thread only, but for ``recover``.
        report: called with one line for every hang that the environment recovered from.
    """

    def __init__(self, env: SlotEnv, report: Callable[[str], None]) -> None:
        self.env = env
        self._report = report
        self._stuck = False
        self._start_thread()

    def _start_thread(self) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[StepResult | BaseException | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=_serve, args=(self._jobs, self._answers), name=f"step {self.env.spec.name}", daemon=True
        )
        self._thread.start()

    def reset(self, seeds: Sequence[int], timeout_s: float) -> StepResult:
        """Start an episode in every slot."""
        self._jobs.put(lambda: self.env.reset(seeds))
        return self._answer(timeout_s)

    def send(self, actions: IntArray) -> None:
        """Start a step."""
        self._jobs.put(lambda: self.env.step(actions))

    def receive(self, timeout_s: float) -> StepResult:
        """What the step sent last came to.

        Raises:
            EnvironmentFaultError: the environment raised, or hung and could not replace its stuck part; then the
                error's ``details`` say where it hangs.
        """
        return self._answer(timeout_s)

    def _answer(self, timeout_s: float) -> StepResult:
        try:
            answer = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            culprit = f"environment {self.env.waiting_for!r}: no answer for {timeout_s:g} s"
            details = self.env.stacks() or stack_of(self._thread, below=__file__)
            answer = self._recover(timeout_s)
            if answer is None:
                self._stuck = True
                raise EnvironmentFaultError(culprit, details) from None
            if not isinstance(answer, BaseException):
                self._report(culprit)
        if isinstance(answer, BaseException):
            raise answer
        if answer is None:
            raise RuntimeError("an environment step gave no result")
        return answer

    def _leave_thread(self) -> None:
        """Continue with a new thread; the one that is stuck ends if it ever wakes, and lets go of its environment."""
        self._jobs.put(None)
        self._start_thread()

    def _recover(self, timeout_s: float) -> StepResult | BaseException | None:
        self._leave_thread()
        self._jobs.put(self.env.recover)
        try:
            return self._answers.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def close(self) -> None:
        """Close the environment after its running step; a stuck thread is left behind with its step."""
        if self._stuck or not self._begin_closing():
            self._leave_thread()
            self._begin_closing()
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            message = f"environment {self.env.spec.name!r}: closing it takes longer than {CLOSE_TIMEOUT_S:g} s"
            print(f"machina: {message}; it is left behind", file=sys.stderr, flush=True)

    def _begin_closing(self) -> bool:
        """Whether the stepping thread came to it in time."""
        begun = threading.Event()

        def close() -> None:
            begun.set()
            self.env.close()

        self._jobs.put(close)
        self._jobs.put(None)
        return begun.wait(STEP_TIMEOUT_S)


class InlineStepper(ThreadStepper):
    """Steps the environment when its result is asked for: one at a time, for the place ``inline``.

    Where a step waits for nothing the caller's thread makes it: to hand it to another one takes as long as the step
    itself does (docs/benchmarks.md).
    """

    _actions: Array | None = None

    def send(self, actions: Array) -> None:
        """Keep the actions until ``receive``."""
        self._actions = actions

    def receive(self, timeout_s: float) -> StepResult:
        """Step with the actions sent last; see ``ThreadStepper.receive``."""
        if self._actions is None:
            raise RuntimeError("receive was called without a send")
        actions, self._actions = self._actions, None
        if self.env.never_hangs:
            return self.env.step(actions)
        super().send(actions)
        return super().receive(timeout_s)


def build_timeout_s(step_timeout_s: float) -> float:
    """How long one environment may take to be built."""
    return max(step_timeout_s, LEAST_BUILD_TIMEOUT_S)


def build_env(make: Callable[[], SlotEnv], name: str, num_slots: int, step_timeout_s: float) -> SlotEnv:
    """An environment, built in time.

    Raises:
        EnvironmentFaultError: it takes longer.
        UserError: it can't be built.
    """
    timeout_s = build_timeout_s(step_timeout_s) + RESET_TIMEOUT_PER_SLOT_S * num_slots
    return within(timeout_s, make, f"environment {name!r}: building it", undo=lambda env: env.close())


def fault_at_hang(culprit: str) -> None:
    """A ``report`` for callers that accept no step that an environment had to recover from.

    Raises:
        EnvironmentFaultError: always.
    """
    raise EnvironmentFaultError(culprit)


def _serve(jobs: queue.SimpleQueue[Job | None], answers: queue.SimpleQueue[StepResult | BaseException | None]) -> None:
    """The stepping thread: run each job, reply with its result or with what it raised."""
    while (job := jobs.get()) is not None:
        try:
            answers.put(job())
        except BaseException as error:
            answers.put(error)
