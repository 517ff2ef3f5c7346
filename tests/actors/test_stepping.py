"""How environments are stepped, and what a hang comes to."""

from __future__ import annotations

import inspect
import pickle
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest

from machina.actors.stepping import InlineStepper, ThreadStepper, fault_at_hang
from machina.config import EnvConfig
from machina.envs.builders import parse_environment
from machina.envs.config import AtariConfig, GameConfig, GymnasiumConfig, ToyConfig
from machina.errors import EnvironmentFaultError
from machina.specs import ArraySpec, EnvSpec, discrete
from machina.types import Array, IntArray, StepResult, single_agent_step


class Sluggish:
    """One slot that counts its steps; one of them hangs until the test lets it go."""

    render_fps: float | None = None
    never_hangs = False

    def __init__(self, hangs_at: int = -1, recovers: bool = False, raises_at: int = -1) -> None:
        self.spec = EnvSpec(
            name="sluggish",
            tasks=("sluggish",),
            observation={"observation": ArraySpec(shape=(1,), dtype="float32")},
            action=discrete(2),
        )
        self.task_ids = np.zeros(1, np.int64)
        self.waiting_for = "sluggish part"
        self.let_go = threading.Event()
        self.closed = False
        self.stack_of_a_process = ""
        self._hangs_at, self._recovers, self._raises_at = hangs_at, recovers, raises_at
        self._steps = 0

    def _entry(self, truncated: bool = False) -> StepResult:
        nothing = np.zeros(1, np.bool_)
        observation = np.full((1, 1), self._steps, np.float32)
        return single_agent_step(
            {"observation": observation}, np.zeros(1, np.float32), nothing, nothing | truncated, nothing
        )

    def reset(self, seeds: Sequence[int]) -> StepResult:
        assert len(seeds) == 1
        self._steps = 0
        return self._entry()

    def step(self, actions: IntArray) -> StepResult:
        assert actions.shape == (1,)
        self._steps += 1
        if self._steps == self._hangs_at:
            self.let_go.wait()
            raise EnvironmentFaultError("this step was finished by another thread")
        if self._steps == self._raises_at:
            raise EnvironmentFaultError("environment 'sluggish': it broke")
        return self._entry()

    def recover(self) -> StepResult | None:
        if self._raises_at == 0:
            raise EnvironmentFaultError("environment 'sluggish': no spare part")
        return self._entry(truncated=True) if self._recovers else None

    def stacks(self) -> str:
        return self.stack_of_a_process

    def get_state(self) -> Mapping[str, Array] | None:
        return None

    def set_state(self, state: Mapping[str, Array]) -> StepResult:
        raise NotImplementedError(str(state))

    def render(self) -> Array:
        return np.zeros((1, 1, 3), np.uint8)

    def close(self) -> None:
        self.closed = True


ACTIONS = np.zeros(1, np.int64)


@pytest.fixture
def envs() -> Iterator[list[Sluggish]]:
    """Hung threads end with the test."""
    made: list[Sluggish] = []
    yield made
    for env in made:
        env.let_go.set()


def steps_seen(entry: StepResult) -> float:
    return float(entry.observation["observation"][0, 0])


def test_inline_steps_when_asked() -> None:
    env = Sluggish()
    stepper = InlineStepper(env, fault_at_hang)
    assert steps_seen(stepper.reset([1], 1)) == 0
    with pytest.raises(RuntimeError, match="without a send"):
        stepper.receive(1)
    stepper.send(ACTIONS)
    assert steps_seen(stepper.receive(1)) == 1
    with pytest.raises(RuntimeError, match="without a send"):
        stepper.receive(1)
    stepper.close()
    assert env.closed


@pytest.mark.parametrize(
    ("name", "config", "steps_here"),
    [
        ("catch", ToyConfig(), True),
        ("connect_four", GameConfig(), True),
        ("CartPole-v1", GymnasiumConfig(), True),
        ("Acrobot-v1", GymnasiumConfig(processes=False), False),
        ("pong", AtariConfig(), False),
    ],
)
def test_inline_only_arithmetic_is_stepped_without_a_deadline(name: str, config: EnvConfig, steps_here: bool) -> None:
    env = parse_environment(name, config).make([0, 0])
    threads: list[int] = []
    step = env.step

    def noted(actions: Array) -> StepResult:
        threads.append(threading.get_ident())
        return step(actions)

    env.step = noted  # type: ignore[method-assign]
    stepper = InlineStepper(env, fault_at_hang)
    stepper.reset([1, 2], 60)
    stepper.send(np.zeros(2, np.int64))
    stepper.receive(60)
    stepper.close()
    assert [thread == threading.get_ident() for thread in threads] == [steps_here]


def test_a_thread_steps_alongside_the_caller_and_passes_faults_on() -> None:
    env = Sluggish(raises_at=3)
    stepper = ThreadStepper(env, fault_at_hang)
    stepper.reset([1], 5)
    for count in (1, 2):
        stepper.send(ACTIONS)
        assert steps_seen(stepper.receive(5)) == count
    stepper.send(ACTIONS)
    with pytest.raises(EnvironmentFaultError, match="it broke"):
        stepper.receive(5)
    stepper.close()
    assert env.closed


def test_a_hang_without_recovery_is_one_fault_that_names_the_part(envs: list[Sluggish]) -> None:
    env = Sluggish(hangs_at=2)
    envs.append(env)
    reports: list[str] = []
    stepper = ThreadStepper(env, reports.append)
    stepper.reset([1], 5)
    stepper.send(ACTIONS)
    stepper.receive(5)
    stepper.send(ACTIONS)
    with pytest.raises(EnvironmentFaultError, match=r"'sluggish part': no answer for 0\.1 s") as caught:
        stepper.receive(0.1)
    assert reports == [], "the caller counts what it hears as an exception"
    code = inspect.getsource(Sluggish.step).splitlines()
    line = inspect.getsourcelines(Sluggish.step)[1] + [text.strip() for text in code].index("self.let_go.wait()")
    place = f'  File "{__file__}", line {line}, in step\n    self.let_go.wait()\n'
    assert caught.value.details.startswith(f"thread 'step sluggish', most recent call last:\n{place}")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.details) == (str(caught.value), caught.value.details)
    started = time.monotonic()
    stepper.close()
    assert env.closed, "closed by another thread than the stuck one"
    assert time.monotonic() - started < 2


def test_processes_that_hang_stand_for_the_thread_that_waits_for_them(envs: list[Sluggish]) -> None:
    env = Sluggish(hangs_at=1)
    env.stack_of_a_process = "slot 0, process 7"
    envs.append(env)
    stepper = ThreadStepper(env, fault_at_hang)
    stepper.reset([1], 5)
    stepper.send(ACTIONS)
    with pytest.raises(EnvironmentFaultError) as caught:
        stepper.receive(0.1)
    assert caught.value.details == "slot 0, process 7"
    stepper.close()


def test_a_hang_with_recovery_is_reported_and_the_run_continues(envs: list[Sluggish]) -> None:
    env = Sluggish(hangs_at=2, recovers=True)
    envs.append(env)
    reports: list[str] = []
    stepper = ThreadStepper(env, reports.append)
    stepper.reset([1], 5)
    for _ in range(2):
        stepper.send(ACTIONS)
        entry = stepper.receive(0.2)
    assert entry.truncated.all()
    assert reports == ["environment 'sluggish part': no answer for 0.2 s"]
    stepper.send(ACTIONS)
    assert steps_seen(stepper.receive(5)) == 3
    env.let_go.set()  # the stuck thread wakes and is heard no more
    stepper.send(ACTIONS)
    assert steps_seen(stepper.receive(5)) == 4
    stepper.close()


def test_a_recovery_that_fails_is_one_fault(envs: list[Sluggish]) -> None:
    env = Sluggish(hangs_at=1, raises_at=0)
    envs.append(env)
    reports: list[str] = []
    stepper = ThreadStepper(env, reports.append)
    stepper.reset([1], 5)
    stepper.send(ACTIONS)
    with pytest.raises(EnvironmentFaultError, match="no spare part"):
        stepper.receive(0.1)
    assert reports == []
    stepper.close()


def test_who_wants_no_recovered_step_hears_a_fault(envs: list[Sluggish]) -> None:
    env = Sluggish(hangs_at=1, recovers=True)
    envs.append(env)
    stepper = ThreadStepper(env, fault_at_hang)
    stepper.reset([1], 5)
    stepper.send(ACTIONS)
    with pytest.raises(EnvironmentFaultError, match="sluggish part"):
        stepper.receive(0.1)
    stepper.close()
