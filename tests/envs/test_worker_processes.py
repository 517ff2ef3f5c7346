"""What lives in worker processes: its seeds, its infos, its errors, its death, and what it started."""

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import VectorEnv, VectorWrapper
from processes import running

import machina
import machina.checkpoint
from machina.actors.stepping import ThreadStepper, fault_at_hang
from machina.envs.builders import parse_environment
from machina.envs.config import GymnasiumConfig
from machina.envs.slots import GymnasiumSlots
from machina.errors import EnvironmentFaultError, UserError
from machina.interfaces import SlotEnv
from machina.processes import seed_generators

NOTHING = np.zeros(2, np.int64)


def make(kind: str, slots: int = 2, processes: bool | None = None, wrapper: str | None = None) -> SlotEnv:
    return make_by_name(f"started_tasks:{kind}-v0", slots, processes, wrapper)


def make_by_name(name: str, slots: int = 2, processes: bool | None = None, wrapper: str | None = None) -> SlotEnv:
    return parse_environment(name, GymnasiumConfig(processes=processes), wrapper).make([0] * slots)


@pytest.fixture
def register(request: pytest.FixtureRequest) -> Callable[..., str]:
    """Registers an environment of started_tasks for the test."""

    def register(entry: str, **arguments: Any) -> str:
        name = "Registered-v0"
        gymnasium.register(name, f"started_tasks:{entry}", kwargs=arguments)
        request.addfinalizer(lambda: gymnasium.registry.pop(name))
        return name

    return register


# Generators


def seen(kind: str, seeds: list[int]) -> Any:
    """Observations of an episode and a half, ``[steps, B, 2]``."""
    env = make(f"Drawn_{kind}", len(seeds))
    try:
        entries = [env.reset(seeds), *(env.step(np.zeros(len(seeds), np.int64)) for _ in range(12))]
        return np.stack([entry.observation["observation"] for entry in entries])
    finally:
        env.close()


@pytest.mark.parametrize("kind", ["global", "space", "wrapped"])
def test_slots_draw_independently_and_the_same_seeds_repeat(kind: str) -> None:
    first = seen(kind, [5, 6, 7])
    assert len(np.unique(first)) == first.size, "every slot and step has numbers of its own"
    assert np.array_equal(seen(kind, [5, 6, 7]), first)
    assert not np.isin(seen(kind, [8, 9, 10]), first).any()


def test_constructors_draw_independently_and_repeat() -> None:
    first = seen("constructor", [5, 6, 7])[0]
    assert len(np.unique(first)) == 3
    assert np.array_equal(seen("constructor", [5, 6, 7])[0], first)


@pytest.mark.parametrize(
    ("environment", "more"),
    [("started_tasks:Drawn_global-v0", {"processes": False}), ("catch", {"wrapper": "started_tasks:noisy"})],
)
def test_what_draws_in_the_runs_process_repeats_and_the_start_line_says_so(
    environment: str, more: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def states(name: str) -> Any:
        options: dict[str, Any] = {"place": "inline", "hidden_sizes": (8,), "runs_dir": tmp_path, **more}
        run = machina.train(
            "impala", environment, name=name, total_frames=64, unroll_length=4, batch_size=4,
            envs_per_task=4, precision="float32", **options,
        )  # fmt: skip
        return machina.checkpoint.RunDirectory.open(run.path).latest().checkpoint.tensors["model"]

    one, other = states("one"), states("other")
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert "place inline; they share the random generators of this process, seeded once" in capsys.readouterr().out


def test_torch_is_seeded_where_it_is_loaded() -> None:
    with torch.random.fork_rng():
        seed_generators(3)
        first = torch.rand(2)
        seed_generators(3)
        assert torch.equal(torch.rand(2), first)


# Infos

KINDS = ["none_or_int", "visited", "none_or_dict", "int_or_text", "int_or_list"]


class Kept(VectorWrapper):
    """Keeps what a user's wrapper reads."""

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        self.infos: list[dict[str, Any]] = []

    def step(self, actions: Any) -> Any:
        *answer, infos = super().step(actions)
        self.infos.append(infos)
        return *answer, infos


def kept(env: VectorEnv) -> VectorEnv:
    return Kept(env)


@pytest.mark.parametrize("processes", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_infos_that_nobody_reads_are_not_merged(kind: str, processes: bool) -> None:
    """Neither do they fail nor cost a step: episodes of eight continue as without infos."""
    env = make(f"Told_{kind}", 4, processes)
    try:
        env.reset(range(4))
        entries = [env.step(np.zeros(4, np.int64)) for _ in range(10)]
    finally:
        env.close()
    assert [entry.truncated.all() for entry in entries] == [step == 8 for step in range(1, 11)]
    assert [entry.reward.tolist() for entry in entries] == [[float(step != 9)] * 4 for step in range(1, 11)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrapper_reads_infos_of_any_kind(kind: str) -> None:
    env = make(f"Told_{kind}", 4, False, "test_worker_processes:kept")
    env.reset(range(4))
    for _ in range(10):
        env.step(np.zeros(4, np.int64))
    env.close()
    assert isinstance(env, GymnasiumSlots)
    assert isinstance(env._env, Kept)
    told = []
    for infos in env._env.infos:
        assert infos[f"_{kind}"].all()
        values = infos[kind]
        if isinstance(values, dict):  # all four had one
            values = [{"speed": speed} for speed in values["speed"]]
        told += [value.tolist() if isinstance(value, np.generic | np.ndarray) else value for value in values]
    all_kinds: dict[str, list[Any]] = {
        "none_or_int": [None, 1],
        "visited": [[0], [0, 1], [0, 1, 2]],
        "none_or_dict": [None, {"speed": 1.0}],
        "int_or_text": [3, "done"],
        "int_or_list": [2, [1, 2, 3]],
    }
    possible = all_kinds[kind]
    assert [value for value in told if value not in possible] == []
    assert [value for value in possible if value not in told] == [], "every kind came"


@pytest.mark.parametrize("processes", [True, False])
def test_a_mask_that_comes_with_the_first_step_is_not_passed_over(processes: bool) -> None:
    env = make("MaskedSteps", processes=processes)
    try:
        env.reset([0, 1])
        with pytest.raises(EnvironmentFaultError, match="gives an action_mask in its infos; add --info-mask use"):
            env.step(NOTHING)
    finally:
        env.close()


# Errors and deaths


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "killed",
            r"environment 'started_tasks:Dying_killed-v0': worker process of slot [01] was killed by SIGKILL "
            r"\(out of memory\?\)",
        ),
        ("signalled", r"environment 'started_tasks:Dying_signalled-v0': worker .* slot [01] was killed by signal \d+"),
        ("exits", r"environment 'started_tasks:Dying_exits-v0': worker process of slot [01] ended with exit code 3"),
        ("leaves", r"environment 'started_tasks:Dying_leaves-v0': step raised SystemExit: no licence \(.*:\d+\)"),
        ("own", r"environment 'started_tasks:Dying_own-v0': step raised OwnError: 1 is not 2 \(.*:\d+\)"),
    ],
)
def test_the_end_of_a_worker_is_reported(kind: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    env = make(f"Dying_{kind}")
    try:
        env.reset([0, 1])
        env.step(NOTHING)
        env.step(NOTHING)
        with pytest.raises(EnvironmentFaultError, match=f"^{message}$"):
            env.step(NOTHING)
    finally:
        env.close()
    assert capfd.readouterr().err == ""


def test_a_constructor_that_fails_everywhere_is_reported() -> None:
    with pytest.raises(UserError, match=r"Dying_file-v0' can't be built: FileNotFoundError: .*level\.txt"):
        make("Dying_file")


def test_a_constructor_that_fails_in_a_worker_is_reported(
    tmp_path: Path, register: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    """The second slot finds the licence taken; in the parent, which reads the spaces, it was free."""
    licence = tmp_path / "licence"
    with pytest.raises(UserError) as caught:
        make_by_name(register("Dying", kind="", licence=str(licence)))
    assert re.fullmatch(
        r"environment 'Registered-v0' can't be built: FileExistsError: .*licence' \(slot [01]\)", str(caught.value)
    )
    assert capfd.readouterr().err == ""
    assert not licence.exists(), "the environment of the other slot was closed"


def test_in_one_process_a_constructor_that_fails_closes_the_others(
    tmp_path: Path, register: Callable[..., str]
) -> None:
    licence = tmp_path / "licence"
    with pytest.raises(UserError, match="'Registered-v0' can't be built: FileExistsError"):
        make_by_name(register("Dying", kind="", licence=str(licence)), processes=False)
    assert not licence.exists()


def test_an_entry_point_without_a_name() -> None:
    env = make("Lambda")
    try:
        assert env.reset([0, 1]).observation["observation"].shape == (2, 2)
    finally:
        env.close()


NO_GUARD = """
import machina
machina.train("ppo", "started_tasks:Told_visited-v0", total_frames=64, envs_per_task=2, runs_dir="runs")
"""


def test_a_program_without_a_guard_is_reported(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(NO_GUARD)
    ended = subprocess.run(
        [sys.executable, program], cwd=tmp_path, env=with_tasks(), capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        f"machina.errors.UserError: worker processes can't import {program}: put what it runs under "
        '`if __name__ == "__main__":`, so that importing it starts no second run'
    )
    assert ended.stdout.count("goal: ") == 1
    assert list((tmp_path / "runs").iterdir()) == []


# What environments start


def with_tasks(**more: str) -> dict[str, str]:
    folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), **more}


@pytest.fixture
def argument() -> str:
    """Of the program that environments start."""
    return f"4711.{uuid.uuid4().int}"


@pytest.mark.parametrize("kind", ["ended", "left", "detached", "close"])
def test_closing_ends_what_workers_started(
    kind: str, argument: str, register: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("machina.envs.workers.CLOSE_TIMEOUT_S", 1.5)
    name = register("Started", kind=kind, argument=argument)
    env = make_by_name(name)
    env.reset([0, 1])
    assert len(running(argument)) >= 2
    env.close()
    assert not running(argument)


def test_a_hang_ends_with_what_it_started(argument: str, register: Callable[..., str]) -> None:
    stepper = ThreadStepper(make_by_name(register("Started", kind="step", argument=argument)), fault_at_hang)
    stepper.reset([0, 1], 60)
    for _ in range(2):
        stepper.send(NOTHING)
        stepper.receive(60)
    stepper.send(NOTHING)
    with pytest.raises(EnvironmentFaultError, match=r"no answer for 0\.5 s"):
        stepper.receive(0.5)
    assert len(running(argument)) == 2
    stepper.close()
    assert not running(argument)


def test_what_a_dead_worker_started_ends_with_the_others(argument: str, register: Callable[..., str]) -> None:
    env = make_by_name(register("Started", kind="ended", argument=argument))
    env.reset([0, 1])
    assert isinstance(env, GymnasiumSlots)
    os.kill(env._base.processes[1].pid, signal.SIGKILL)
    with pytest.raises(EnvironmentFaultError, match="worker process of slot 1 was killed by SIGKILL"):
        env.step(NOTHING)
    assert running(argument)
    env.close()
    assert not running(argument)
