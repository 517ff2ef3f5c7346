"""Environments by gymnasium id: native, in this process, in workers, and their faults."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from machina.envs.builders import parse_environment
from machina.envs.config import GymnasiumConfig
from machina.envs.pictures import draw_without_display
from machina.errors import EnvironmentFaultError, UserError
from machina.interfaces import SlotEnv

RIGHT = np.ones(2, np.int64)


def make(name: str, num_slots: int = 2, processes: bool | None = None) -> SlotEnv:
    return parse_environment(name, GymnasiumConfig(processes=processes)).make([0] * num_slots)


def test_native_cartpole_truncates_at_500_and_resets_one_step_later() -> None:
    env = make("CartPole-v1", 3)
    entry = env.reset([1, 2, 3])
    assert entry.observation["observation"].shape == (3, 4)
    for step in range(1, 501):
        x, x_dot, angle, angle_dot = entry.observation["observation"].T
        # a hand-made controller; slot 2 always pushes right and falls
        actions = (0.1 * x + 0.3 * x_dot + 4 * angle + angle_dot > 0).astype(np.int64)
        actions[2] = 1
        ended, entry = entry.terminated | entry.truncated, env.step(actions)
        assert np.array_equal(entry.reward, ~ended)
        assert np.array_equal(entry.truncated[:2], [step == 500] * 2)
        assert not entry.truncated[2]
        assert not entry.terminated[:2].any()
        assert (np.abs(entry.observation["observation"][ended]) <= 0.05).all()
    entry = env.step(actions)
    assert not (entry.terminated | entry.truncated)[:2].any()
    assert (np.abs(entry.observation["observation"][:2]) <= 0.05).all()
    assert entry.reward.dtype == np.float32


def test_native_cartpole_repeats_with_the_seeds() -> None:
    one, other = make("CartPole-v1"), make("CartPole-v1")
    first = one.reset([5, 6]).observation["observation"]
    assert np.array_equal(other.reset([5, 6]).observation["observation"], first)
    assert not np.array_equal(other.reset([5, 7]).observation["observation"], first)


@pytest.mark.parametrize("processes", [True, False])
def test_corridor(processes: bool) -> None:
    env = make("user_tasks:Corridor-v0", processes=processes)
    try:
        first = env.reset([1, 2])
        assert first.observation["observation"].dtype == np.float32
        assert first.observation["observation"][0, 1] != first.observation["observation"][1, 1], "one seed per slot"
        kept = first.observation["observation"].copy()
        for _ in range(4):
            entry = env.step(np.array([1, 0]))
        assert not entry.terminated.any()
        entry = env.step(np.array([1, 0]))
        assert entry.terminated.tolist() == [True, False]
        assert entry.reward.tolist() == [1.0, 0.0]
        assert entry.observation["observation"][0, 0] == 5
        entry = env.step(np.array([1, 0]))
        assert entry.observation["observation"][0, 0] == 0, "the step after the end is a reset step"
        assert entry.reward.tolist() == [0.0, 0.0]
        for _ in range(14):
            entry = env.step(np.array([0, 0]))
        assert entry.truncated.tolist() == [False, True]
        assert not entry.terminated.any()
        assert np.array_equal(first.observation["observation"], kept), "earlier answers stay as they were"
        assert env.get_state() is None
        assert env.recover() is None
    finally:
        env.close()


@pytest.mark.filterwarnings("ignore:.*ERROR:UserWarning")
@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("Raises", "environment 'user_tasks:CorridorRaises-v0': step raised RuntimeError: the engine stalled"),
        ("Nan", "environment 'user_tasks:CorridorNan-v0': observation of slot 0 (task "),
        ("Huge", "environment 'user_tasks:CorridorHuge-v0': observation of slot 0 (task "),
        ("NanReward", "environment 'user_tasks:CorridorNanReward-v0': reward of slot 0"),
        ("Shape", "environment 'user_tasks:CorridorShape-v0': observation has shape (3,), its space has (2,)"),
    ],
)
def test_faults_of_a_worker_are_named(trouble: str, message: str) -> None:
    env = make(f"user_tasks:Corridor{trouble}-v0")
    try:
        env.reset([0, 1])
        env.step(RIGHT)
        env.step(RIGHT)
        with pytest.raises(EnvironmentFaultError) as caught:
            env.step(RIGHT)
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)
    finally:
        env.close()


@pytest.mark.parametrize("mask", ["Bytes", "Binary"])
@pytest.mark.parametrize("processes", [True, False])
def test_masks_of_bytes_are_masks(mask: str, processes: bool) -> None:
    env = make(f"user_tasks:Masked{mask}-v0", processes=processes)
    try:
        assert env.spec.observation["action_mask"].dtype == "bool"
        for entry in (env.reset([0, 1]), env.step(RIGHT)):
            assert entry.observation["action_mask"].dtype == np.bool_
            assert entry.observation["action_mask"].tolist() == [[False, True]] * 2
    finally:
        env.close()


def test_a_mask_that_allows_nothing_is_a_fault() -> None:
    env = make("user_tasks:MaskedHelpless-v0", processes=False)
    env.reset([0, 1])
    env.step(RIGHT)
    env.step(RIGHT)
    with pytest.raises(EnvironmentFaultError, match="'user_tasks:MaskedHelpless-v0': no action is allowed in slot 0"):
        env.step(RIGHT)


def test_workers_import_from_the_working_directory_and_survive_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_corridor.py").write_text(
        "import gymnasium\n"
        "class Long(gymnasium.Env):\n"
        "    observation_space = gymnasium.spaces.Box(0, 1, (1,))\n"
        "    action_space = gymnasium.spaces.Discrete(2)\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        return self.observation_space.low, {}\n"
        "    def step(self, action):\n"
        "        return self.observation_space.high, 1.0, False, False, {}\n"
        "gymnasium.register('Long-v0', Long)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    env = make("my_corridor:Long-v0")
    try:
        env.reset([0, 1])
        # Ctrl-C reaches every process of the terminal; only the main one decides what it means
        for worker in multiprocessing.active_children():
            os.kill(worker.pid or 0, signal.SIGINT)
        assert env.step(RIGHT).reward.tolist() == [1.0, 1.0]
        assert env.step(RIGHT).reward.tolist() == [1.0, 1.0]
    finally:
        env.close()
    assert not multiprocessing.active_children()


def test_a_sleeping_worker_is_closed_at_once() -> None:
    env = make("user_tasks:CorridorSleeps-v0")
    env.reset([0, 1])
    env.step(RIGHT)
    env.step(RIGHT)
    caught: list[Exception] = []

    def step() -> None:
        try:
            env.step(RIGHT)
        except EnvironmentFaultError as error:
            caught.append(error)

    thread = threading.Thread(target=step)
    thread.start()
    thread.join(timeout=0.5)
    assert thread.is_alive()
    assert env.waiting_for == "user_tasks:CorridorSleeps-v0"
    assert env.recover() is None
    started = time.monotonic()
    env.close()
    thread.join(timeout=5)
    assert time.monotonic() - started < 3
    assert not thread.is_alive()
    assert len(caught) == 1


@pytest.mark.parametrize("options", [{}, {"processes": True}, {"processes": False}, {"observe": "pixels"}], ids=str)
@pytest.mark.parametrize("name", ["CartPole-v1", "MountainCar-v0"])
def test_max_steps_takes_the_place_of_the_environments_own_limit(name: str, options: dict[str, Any]) -> None:
    factory = parse_environment(name, GymnasiumConfig(max_steps=7, **options))
    assert factory.spec.protocol["max_episode_steps"] == 7
    env = factory.make([0, 0])
    env.reset([1, 2])
    truncated = [env.step(np.full(2, step % 2)).truncated.tolist() for step in range(9)]
    env.close()
    assert truncated == [[step == 6] * 2 for step in range(9)]


def test_factory_can_be_pickled_and_draws() -> None:
    factory = pickle.loads(pickle.dumps(parse_environment("user_tasks:Corridor-v0", GymnasiumConfig())))
    assert factory.spec.protocol == {"max_episode_steps": 20}
    env = factory.make_for_video(0)
    env.reset([0])
    env.step(np.array([1]))
    assert env.render().tolist() == np.ones((4, 6, 3)).tolist()
    env.close()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "DrawnLibrary",
            UserError,
            "can't be drawn: No module named 'no_such_library'; install the package that holds",
        ),
        ("DrawnRaises", EnvironmentFaultError, "render raised RuntimeError: no display [(].*user_tasks.py:\\d+[)]$"),
        ("DrawnNothing", UserError, "renders no picture; build it with render_mode='rgb_array'"),
        ("DrawnText", UserError, "renders no picture; build it with render_mode='rgb_array'"),
        ("NotDrawn", UserError, "can't be built: TypeError: .*unexpected keyword argument 'render_mode'"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(name: str, error: type[Exception], message: str) -> None:
    factory = parse_environment(f"user_tasks:{name}-v0", GymnasiumConfig())
    with pytest.raises(error, match=f"^environment 'user_tasks:{name}-v0':? {message}") as caught:  # noqa: PT012
        env = factory.make_for_video(0)
        env.reset([0])
        env.render()
    assert "\n" not in str(caught.value)


def test_wrong_actions_are_refused() -> None:
    env = make("CartPole-v1")
    with pytest.raises(ValueError, match="reset comes before step"):
        env.step(RIGHT)
    env.reset([0, 1])
    with pytest.raises(ValueError, match="actions must be"):
        env.step(np.array([0, 2]))
    with pytest.raises(ValueError, match="as many seeds"):
        env.reset([0])


def test_mujoco_is_drawn_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.setenv(variable, "")  # restored afterwards
        monkeypatch.delenv(variable)
    draw_without_display()
    env = parse_environment("Hopper-v5", GymnasiumConfig()).make_for_video(0)
    try:
        env.reset([1])
        assert env.render().std() > 10
    finally:
        env.close()
    assert os.environ["MUJOCO_GL"] == "egl"


GLFW_WITHOUT_DISPLAY = """
from machina.envs.builders import parse_environment
from machina.envs.config import GymnasiumConfig
from machina.errors import UserError
env = parse_environment("Hopper-v5", GymnasiumConfig()).make_for_video(0)
env.reset([1])
try:
    env.render()
except UserError as error:
    print(error)
"""


def test_a_library_that_can_not_draw_is_reported() -> None:
    # In a process of its own: what draws is chosen once, when mujoco is imported.
    variables = {**os.environ, "MUJOCO_GL": "glfw", "DISPLAY": ""}
    command = [sys.executable, "-c", GLFW_WITHOUT_DISPLAY]
    line = subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout
    assert line.startswith("environment 'Hopper-v5' can't be drawn: ")
    assert "; MUJOCO_GL is glfw: set it to what" in line
