"""Environments that are played, not learned from: in evaluations, matches and films a step has a deadline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from machina.actors.stepping import RESET_TIMEOUT_PER_SLOT_S, ThreadStepper, build_env, fault_at_hang
from machina.interfaces import EnvFactory, SlotEnv
from machina.specs import EnvSpec
from machina.types import Array, StepResult


class TimedEnv:
    """Steps an environment in a thread that is left behind when it hangs; implements ``SlotEnv``.

    A hang is a fault even if the environment could recover from it: a game that was cut short has no result.

    Args:
        env: as it was built.
        step_timeout_s: deadline of a step.
    """

    def __init__(self, env: SlotEnv, step_timeout_s: float) -> None:
        self.spec = env.spec
        self.task_ids = env.task_ids
        self.never_hangs = True
        """A step that hangs ends at its deadline."""
        self._env = env
        self._stepper = ThreadStepper(env, fault_at_hang)
        self._timeout_s = step_timeout_s

    @property
    def waiting_for(self) -> str:
        """Which part of the environment is being stepped."""
        return self._env.waiting_for

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

    def recover(self) -> StepResult | None:
        """None: a hang is a fault."""
        return None

    def stacks(self) -> str:
        """Where the environment's processes are."""
        return self._env.stacks()

    def get_state(self) -> Mapping[str, Array] | None:
        """The environment's state."""
        return self._env.get_state()

    def set_state(self, state: Mapping[str, Array]) -> StepResult:
        """Restore ``get_state``."""
        return self._env.set_state(state)

    def render(self) -> Array:
        """A picture, drawn in the caller's thread: a graphics library may crash where a thread that it drew in ends."""
        return self._env.render()

    @property
    def render_fps(self) -> float | None:
        """Pictures per second that the environment states."""
        return self._env.render_fps

    def close(self) -> None:
        """Close the environment; a step that hangs is left behind."""
        self._stepper.close()


class TimedFactory:
    """Builds environments whose steps have a deadline; implements ``EnvFactory``.

    Args:
        factory: builds them without one.
        step_timeout_s: the deadline.
    """

    def __init__(self, factory: EnvFactory, step_timeout_s: float) -> None:
        self.spec: EnvSpec = factory.spec
        self._factory = factory
        self._step_timeout_s = step_timeout_s

    def make(self, task_ids: Sequence[int], progress: Callable[[int], None] | None = None) -> TimedEnv:
        """See ``EnvFactory``.

        Raises:
            EnvironmentFaultError: building takes too long.
        """
        return self._in_time(lambda: self._factory.make(task_ids, progress), len(task_ids))

    def make_for_video(self, task_id: int) -> TimedEnv:
        """See ``EnvFactory``; raises as ``make`` does."""
        return self._in_time(lambda: self._factory.make_for_video(task_id), self.spec.slots_per_game)

    def _in_time(self, make: Callable[[], SlotEnv], num_slots: int) -> TimedEnv:
        timeout_s = self._step_timeout_s
        return TimedEnv(build_env(make, self.spec.name, num_slots, timeout_s), timeout_s)
