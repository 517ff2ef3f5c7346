"""Environments seen as pictures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import machina
from machina.envs.builders import parse_environment
from machina.envs.config import GymnasiumConfig
from machina.envs.pixels import small_and_grey
from machina.errors import UserError
from machina.types import Array, IntArray

SEEDS = (11, 12)
PIXELS = GymnasiumConfig(observe="pixels", processes=False)


def by_hand(picture: Array) -> Array:
    """The mean brightness of each of 84 x 84 areas: every pixel as 84 x 84 of its kind, then whole blocks."""
    grey = picture.astype(np.float64) @ [0.299, 0.587, 0.114]
    height, width = grey.shape
    fine = grey.repeat(84, axis=0).reshape(84, height, width).mean(axis=1)
    return np.asarray(fine.repeat(84, axis=1).reshape(84, 84, width).mean(axis=2))


@pytest.mark.parametrize("size", [(168, 252), (400, 600), (84, 84), (85, 83), (30, 50), (1, 1)])
def test_a_picture_is_averaged_over_areas_and_its_colours(size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    assert np.abs(small_and_grey(picture) - by_hand(picture)).max() <= 0.51
    flat = np.full((*size, 3), 200, np.uint8)
    assert (small_and_grey(flat) == 200).all()


def test_pictures_become_small_in_one_thread() -> None:
    """Else the threads of many worker processes wait for one another: every step took ten times as long."""
    program = (
        "import time, numpy as np\n"
        "from machina.envs.pixels import small_and_grey\n"
        "picture = np.zeros((400, 600, 3), np.uint8)\n"
        "small_and_grey(picture)\n"
        "of_all, of_this = time.process_time(), time.thread_time()\n"
        "for _ in range(200): small_and_grey(picture)\n"
        "print((time.process_time() - of_all) / (time.thread_time() - of_this))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 1.2


@pytest.mark.parametrize("processes", [False, True])
def test_stacks_are_the_last_four_pictures_of_the_episode(processes: bool) -> None:
    factory = parse_environment("CartPole-v1", PIXELS.model_copy(update={"processes": processes}))
    assert factory.spec.frame_stack == 4
    assert factory.spec.protocol["observe"] == "pixels"
    env = factory.make([0, 0])
    twins: list[Any] = [gymnasium.make("CartPole-v1", render_mode="rgb_array") for _ in SEEDS]
    try:
        entry = env.reset(SEEDS)
        shown: list[list[Array]] = []
        for twin, seed in zip(twins, SEEDS, strict=True):
            twin.reset(seed=seed)
            shown.append([small_and_grey(twin.render())])
        for _ in range(30):
            for slot, pictures in enumerate(shown):
                stack = [np.zeros((84, 84), np.uint8)] * 4 + pictures
                np.testing.assert_array_equal(entry.observation["observation"][slot], stack[-4:])
            ended = entry.terminated | entry.truncated
            actions: IntArray = np.ones(2, np.int64)  # poles fall soon
            entry = env.step(actions)
            for slot, twin in enumerate(twins):
                if ended[slot]:
                    twin.reset()
                    shown[slot] = []
                else:
                    twin.step(1)
                shown[slot].append(small_and_grey(twin.render()))
    finally:
        env.close()
        for twin in twins:
            twin.close()


@pytest.mark.parametrize("place", ["inline", "local"])
def test_a_policy_learns_from_pixels_and_is_evaluated(place: str, tmp_path: Path) -> None:
    run = machina.train(
        "dqn", "CartPole-v1", observe="pixels", runs_dir=tmp_path, place=place, total_frames=200, learning_starts=50,
        replay_capacity=500, envs_per_task=2, filters=(4, 4, 4), hidden_sizes=(8,), batch_size=4, processes=False,
        eval_every=100, eval_episodes=1,
    )  # fmt: skip
    assert run.reason == "the schedule is complete"
    assert machina.evaluate(run.path, episodes=2).episodes["CartPole-v1"]


UNSEEN = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

class Unseen(CartPoleEnv):
    metadata = {"render_modes": ["human"]}

class Text(CartPoleEnv):
    metadata = {"render_modes": ["ansi"]}
    def __init__(self, render_mode=None):
        assert render_mode in (None, "ansi")
        super().__init__()

class Plain(gymnasium.Wrapper):
    metadata = {"render_modes": []}
    render_mode = None
    def __init__(self):
        super().__init__(CartPoleEnv())

class Modeless(Plain):
    def __init__(self, render_mode=None):
        super().__init__()

class Broken(CartPoleEnv):
    def __init__(self, render_mode=None):
        raise RuntimeError("no licence")

for kind in (Unseen, Text, Plain, Modeless, Broken):
    gymnasium.register(f"{kind.__name__}-v0", kind)
"""


@pytest.mark.filterwarnings("ignore:.*is not in the possible render_modes")
@pytest.mark.parametrize("kind", ["Unseen", "Text", "Plain", "Modeless"])
def test_an_environment_that_draws_no_pictures_is_refused(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pixels_task.py").write_text(UNSEEN)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"pixels_task:{kind}-v0"
    message = f"environment '{name}': observe=pixels needs render_mode 'rgb_array'; use --observe state"
    with pytest.raises(UserError) as refused:
        parse_environment(name, PIXELS)
    assert str(refused.value) == message


def test_an_environment_that_fails_for_another_reason_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pixels_task.py").write_text(UNSEEN)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        UserError, match=r"environment 'pixels_task:Broken-v0' can't be built: RuntimeError.*no licence"
    ):
        parse_environment("pixels_task:Broken-v0", PIXELS)


def test_keys_of_a_picture_can_t_be_dropped() -> None:
    with pytest.raises(UserError, match="drop_keys=x: observe=pixels has no keys; leave one of them out"):
        parse_environment("CartPole-v1", PIXELS.model_copy(update={"drop_keys": ("x",)}))
