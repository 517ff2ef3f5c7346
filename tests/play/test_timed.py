"""An environment with deadlines is an environment: everything of it, and every wait ends."""

from __future__ import annotations

import threading

import drawing_env
import numpy as np

from machina.envs.builders import parse_environment
from machina.envs.config import GymnasiumConfig, ToyConfig
from machina.interfaces import EnvFactory, SlotEnv
from machina.play.timed import TimedFactory


def drawing() -> SlotEnv:
    factory: EnvFactory = TimedFactory(
        parse_environment("drawing_env:Drawing-v0", GymnasiumConfig(processes=False)), step_timeout_s=5.0
    )
    env = factory.make_for_video(0)
    env.reset([3])
    return env


def test_pictures_are_drawn_in_the_caller_s_thread() -> None:
    """Where the thread that steps drew them, multiwalker's library crashed as that thread ended."""
    env = drawing()
    try:
        env.step(np.zeros(1, np.int64))
        assert env.render().shape == (4, 6, 3)
        assert env.render_fps == 12
        assert drawing_env.users["render"] == {threading.get_ident()} != drawing_env.users["step"]
    finally:
        env.close()


def test_it_passes_on_what_the_environment_has() -> None:
    factory = parse_environment("catch", ToyConfig())
    env = TimedFactory(factory, 5.0).make([0, 0])
    try:
        entry = env.reset([1, 2])
        assert env.spec is factory.spec
        assert env.task_ids.tolist() == [0, 0]
        assert env.waiting_for == "catch"
        assert env.stacks() == ""
        assert env.recover() is None
        state = env.get_state()
        assert state is not None
        env.step(np.zeros(2, np.int64))
        again = env.set_state(state)
        np.testing.assert_array_equal(again.observation["observation"], entry.observation["observation"])
    finally:
        env.close()
