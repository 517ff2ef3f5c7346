"""Environments seen as pictures."""

from __future__ import annotations

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
    """The mean brightness of each of 84 x 84 areas, of a picture whose sides are multiples of 84."""
    grey = picture.astype(np.float64) @ [0.299, 0.587, 0.114]
    height, width = (side // 84 for side in grey.shape)
    return np.asarray(grey.reshape(84, height, 84, width).mean(axis=(1, 3)))


def test_a_picture_is_averaged_over_areas_and_its_colours() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (168, 252, 3)).astype(np.uint8)
    assert np.abs(small_and_grey(picture) - by_hand(picture)).max() <= 0.51
    flat = np.full((400, 600, 3), 200, np.uint8)
    assert (small_and_grey(flat) == 200).all()


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_keys": ("x",)}, r"drop_keys=x: observe=pixels has no keys; leave one of them out"),
        ({}, r"environment 'pixels_task:Unseen-v0': observe=pixels needs render_mode 'rgb_array'; use --observe state"),
    ],
)
def test_what_can_t_be_seen_is_refused(
    options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pixels_task.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "class Unseen(gymnasium.Wrapper):\n"
        "    metadata = {'render_modes': []}\n"
        "    def __init__(self, render_mode=None):\n"
        "        super().__init__(CartPoleEnv())\n"
        "    render_mode = None\n"
        "gymnasium.register('Unseen-v0', Unseen)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "pixels_task:Unseen-v0" if not options else "CartPole-v1"
    with pytest.raises(UserError, match=message):
        parse_environment(name, GymnasiumConfig(observe="pixels", processes=False, **options))
