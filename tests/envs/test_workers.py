"""Worker processes: where they hang is reported, and none of them outlives its environment or its parent."""

import inspect
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hanging_tasks
import numpy as np
import pytest

from machina.actors import stepping
from machina.actors.stepping import ThreadStepper, fault_at_hang
from machina.envs.builders import parse_environment
from machina.envs.config import GymnasiumConfig
from machina.envs.slots import GymnasiumSlots
from machina.envs.worker_process import ORPHAN_S
from machina.errors import EnvironmentFaultError
from machina.interfaces import SlotEnv

SLOTS = 3
HANGS = np.array([0, 1, 0])
"""Slot 0 has answered and waits when the parent waits for slot 1; slot 2's answer lies in its pipe."""

MakeStepper = Callable[[str], ThreadStepper]


def pids(env: SlotEnv) -> list[int]:
    assert isinstance(env, GymnasiumSlots)
    return [process.pid or 0 for process in env._base.processes]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture
def make() -> Iterator[MakeStepper]:
    """Steppers of an environment in worker processes, with an episode begun."""
    made: list[ThreadStepper] = []

    def make(name: str) -> ThreadStepper:
        factory = parse_environment(f"hanging_tasks:{name}-v0", GymnasiumConfig())
        stepper = ThreadStepper(factory.make([0] * SLOTS), fault_at_hang)
        made.append(stepper)
        stepper.reset(range(SLOTS), 60)
        return stepper

    yield make
    for stepper in made:
        stepper.close()


@pytest.mark.parametrize("name", ["Sleeping", "Native"])
def test_a_fault_tells_where_a_worker_hangs(name: str, make: MakeStepper) -> None:
    stepper = make(name)
    stepper.send(np.zeros(SLOTS, np.int64))
    stepper.receive(60)
    stepper.send(HANGS)
    with pytest.raises(EnvironmentFaultError) as caught:
        stepper.receive(1.0)
    assert str(caught.value) == f"environment 'hanging_tasks:{name}-v0': no answer for 1 s"
    title, *stack = caught.value.details.splitlines()
    assert title == f"slot 1, process {pids(stepper.env)[1]}, most recent call last:"
    lines, first = inspect.getsourcelines(hanging_tasks.wait_for_nobody)
    call = "time.sleep(3600)" if name == "Sleeping" else 're.match(r"(a+)+$", "a" * 60 + "b")'
    number = first + [line.strip() for line in lines].index(call)
    place = stack.index(f'  File "{hanging_tasks.__file__}", line {number}, in wait_for_nobody')
    assert stack[place + 1] == f"    {call}"
    assert stack[place - 2].endswith(", in step"), "the caller stands above"
    assert not [line for line in stack if "_async_worker" in line], "the stack starts in the environment"


def test_stacks_are_found_within_a_second_and_only_of_what_hangs(make: MakeStepper) -> None:
    stepper = make("Sleeping")
    assert stepper.env.stacks() == "", "all workers wait for actions"
    stepper.send(np.ones(SLOTS, np.int64))
    time.sleep(0.5)
    workers = pids(stepper.env)
    os.kill(workers[2], signal.SIGSTOP)  # it answers no signal
    started = time.monotonic()
    stacks = stepper.env.stacks()
    assert time.monotonic() - started < 1
    assert stacks.count("in wait_for_nobody") == 2
    assert stacks.endswith(f"slot 2, process {workers[2]}: no stack arrived within 0.8 s\n")
    os.kill(workers[2], signal.SIGCONT)
    with pytest.raises(EnvironmentFaultError) as caught:
        stepper.receive(0.1)
    assert caught.value.details.count("in wait_for_nobody") == 3


@pytest.mark.parametrize("name", ["Sleeping", "Native", "Deaf"])
def test_closing_after_a_hang_leaves_no_worker_alive(name: str, make: MakeStepper) -> None:
    stepper = make(name)
    workers = pids(stepper.env)
    stepper.send(HANGS)
    with pytest.raises(EnvironmentFaultError):
        stepper.receive(0.5)
    assert all(map(is_alive, workers))
    started = time.monotonic()
    stepper.close()
    assert time.monotonic() - started < 4
    assert not any(map(is_alive, workers))
    deadline = time.monotonic() + 10
    while [thread for thread in threading.enumerate() if thread.name.startswith("step hanging_tasks:")]:
        assert time.monotonic() < deadline, "a thread lives on, and with it what the environment holds"
        time.sleep(0.01)


def test_closing_during_a_hang_leaves_no_worker_alive(make: MakeStepper, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a run is stopped before the step's deadline."""
    stepper = make("Sleeping")
    workers = pids(stepper.env)
    stepper.send(HANGS)
    monkeypatch.setattr(stepping, "STEP_TIMEOUT_S", 0.5)
    stepper.close()
    assert not any(map(is_alive, workers))


ORPHANS = """
import sys, numpy as np
from machina.envs.builders import parse_environment
from machina.envs.config import GymnasiumConfig
if __name__ == "__main__":
    env = parse_environment("hanging_tasks:Deaf-v0", GymnasiumConfig()).make([0, 0])
    env.reset([0, 1])
    print(*[process.pid for process in env._base.processes], flush=True)
    env.step(np.array([0, 1]))
"""


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(ORPHANS)
    folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    parent = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    assert all(map(is_alive, workers))
    time.sleep(0.5)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + ORPHAN_S + 10
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, workers))


def test_the_stacks_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: MakeStepper) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    make("Sleeping")
    assert not list(tmp_path.glob("machina-*"))
