"""Environments that are played, not learned from: in evaluations, matches and rating games a step has a deadline."""

from __future__ import annotations

from collections.abc import Sequence

from machina.actors.stepping import RESET_TIMEOUT_PER_SLOT_S, ThreadStepper, build_env, fault_at_hang
from machina.interfaces import EnvFactory, SlotEnv
from machina.specs import EnvSpec
from machina.types import Array, StepResult


class TimedEnv:
    """Steps an environment in a thread that is left behind when it hangs.

    A hang is a fault even if the environment could recover from it: a game that was cut short has no result.

    Args:
        env: as it was built.
        step_timeout_s: deadline of a step.
    """

    def __init__(self, env: SlotEnv, step_timeout_s: float) -> None:
        self.spec = env.spec
        self.task_ids = env.task_ids
        self._stepper = ThreadStepper(env, fault_at_hang)
        self._timeout_s = step_timeout_s

    def reset(self, seeds: Sequence[int]) -> StepResult:
        """Start an episode in every slot.

        Raises:
            EnvironmentFaultError: the environment raised, misbehaved or hung.
        """
        return self._stepper.reset(seeds, self._timeout_s + RESET_TIMEOUT_PER_SLOT_S * len(seeds))

    def step(self, actions: Array) -> StepResult:
        """Take ``actions`` ``[B, *action.shape]``; raises as ``reset`` does."""
        self._stepper.send(actions)
        return self._stepper.receive(self._timeout_s)

    def close(self) -> None:
        """Close the environment; a step that hangs is left behind."""
        self._stepper.close()


class TimedFactory:
    """Builds environments whose steps have a deadline.

    Args:
        factory: builds them without one.
        step_timeout_s: the deadline.
    """

    def __init__(self, factory: EnvFactory, step_timeout_s: float) -> None:
        self.spec: EnvSpec = factory.spec
        self._factory = factory
        self._step_timeout_s = step_timeout_s

    def make(self, task_ids: Sequence[int]) -> TimedEnv:
        """See ``machina.interfaces.EnvFactory``.

        Raises:
            EnvironmentFaultError: building takes too long.
        """
        timeout_s = self._step_timeout_s
        env = build_env(lambda: self._factory.make(task_ids), self.spec.name, len(task_ids), timeout_s)
        return TimedEnv(env, timeout_s)
