"""Foreign code is not waited for longer than is good."""

import inspect
import queue
import threading
from typing import Any

import numpy as np
import pytest

from machina.actors import stepping
from machina.actors.stepping import InlineStepper, build_env, fault_at_hang
from machina.envs import declared
from machina.envs.declared import close_in_time
from machina.errors import EnvironmentFaultError
from machina.launch.configuration import job_config
from machina.launch.plan import plan_run
from machina.waiting import within


def test_an_answer_in_time_and_what_was_raised() -> None:
    assert within(5, lambda: 3, "it") == 3
    with pytest.raises(KeyError, match="left"):
        within(5, lambda: dict[str, int]()["left"], "it")


def test_what_comes_too_late_is_undone() -> None:
    let_go, undone = threading.Event(), threading.Event()

    def hang() -> str:
        let_go.wait()
        return "late"

    with pytest.raises(EnvironmentFaultError, match=r"^it takes longer than 0\.05 s$") as caught:
        within(0.05, hang, "it", undo=lambda answer: undone.set() if answer == "late" else None)
    line = inspect.getsourcelines(hang)[1] + 1
    assert f'"{__file__}", line {line}, in hang' in caught.value.details
    let_go.set()
    assert undone.wait(10)


@pytest.mark.parametrize("stop", [queue.Empty, KeyboardInterrupt])
@pytest.mark.parametrize("in_time", [True, False])
def test_an_answer_that_comes_as_its_caller_leaves_is_undone(
    stop: type[BaseException], in_time: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the caller says that it leaves, or after: whoever comes second lets go of it."""
    let_go, undone = threading.Event(), threading.Event()

    class Left(queue.SimpleQueue[Any]):
        """The caller is stopped as it waits."""

        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            if timeout is not None:
                if in_time:
                    let_go.set()
                    self.put(super().get())  # the answer is there
                raise stop
            return super().get(block)

    monkeypatch.setattr("machina.waiting.queue.SimpleQueue", Left)
    with pytest.raises(EnvironmentFaultError if stop is queue.Empty else stop):
        within(5, let_go.wait, "it", undo=lambda _: undone.set())
    let_go.set()
    assert undone.wait(10)


class Stuck:
    """An environment that hangs where it is asked to."""

    never_hangs = False

    def __init__(self, hangs: str) -> None:
        self.hangs, self.let_go = hangs, threading.Event()
        self.spec = type("Spec", (), {"name": "stuck"})()
        self.waiting_for = "stuck"

    def _do(self, what: str) -> None:
        if what == self.hangs:
            self.let_go.wait()

    def reset(self, seeds: object) -> str:  # noqa: ARG002
        self._do("reset")
        return "entry"

    def step(self, actions: object) -> str:  # noqa: ARG002
        self._do("step")
        return "entry"

    def stacks(self) -> str:
        return ""

    def recover(self) -> None:
        return None

    def close(self) -> None:
        self._do("close")


@pytest.mark.parametrize("hangs", ["reset", "step"])
def test_inline_a_hang_is_a_fault(hangs: str) -> None:
    env = Stuck(hangs)
    stepper = InlineStepper(env, fault_at_hang)  # type: ignore[arg-type]

    def play() -> None:
        stepper.reset([1], 0.05)
        stepper.send(np.zeros(1, np.int64))
        stepper.receive(0.05)

    with pytest.raises(EnvironmentFaultError, match=r"environment 'stuck': no answer for 0\.05 s") as caught:
        play()
    assert "let_go.wait" in caught.value.details
    env.let_go.set()
    stepper.close()


def test_a_close_that_hangs_is_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(stepping, "CLOSE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(declared, "CLOSE_TIMEOUT_S", 0.05)
    env = Stuck("close")
    stepper = InlineStepper(env, fault_at_hang)  # type: ignore[arg-type]
    stepper.close()
    close_in_time(env.close, "stuck")
    env.let_go.set()
    assert capsys.readouterr().err.splitlines() == [
        "machina: environment 'stuck': closing it takes longer than 0.05 s; it is left behind",
        "machina: environment 'stuck': close() takes longer than 0.05 s; it is left behind",
    ]


def test_a_constructor_that_hangs_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepping, "RESET_TIMEOUT_PER_SLOT_S", 0.0)
    monkeypatch.setattr(stepping, "LEAST_BUILD_TIMEOUT_S", 0.0)
    env = Stuck("reset")

    def make() -> Stuck:
        env.let_go.wait()
        return env

    with pytest.raises(EnvironmentFaultError, match=r"^environment 'stuck': building it takes longer than 0\.05 s$"):
        build_env(make, "stuck", 3, 0.05)  # type: ignore[arg-type]
    env.let_go.set()


def test_building_may_take_longer_than_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """It imports libraries; `--step-timeout-s` is about steps."""
    monkeypatch.setattr(stepping, "RESET_TIMEOUT_PER_SLOT_S", 0.0)
    env = Stuck("nothing")

    def make() -> Stuck:
        env.let_go.wait(0.2)
        return env

    built: object = build_env(make, "slow", 1, 0.01)  # type: ignore[arg-type]
    assert built is env
    config, _ = job_config("impala", "catch", "defaults", runtime={"step_timeout_s": 1e-9})
    assert plan_run(config).factory.spec.name == "catch"
