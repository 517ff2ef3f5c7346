"""Atari's options against the emulator itself: its own frames, rewards, lives and ends, in two games at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ale_py
import numpy as np
import numpy.typing as npt
import pytest
from ale_py import roms

from machina.envs.atari import AtariTasks
from machina.envs.builders import parse_environment
from machina.envs.config import AtariConfig
from machina.interfaces import SlotEnv
from machina.types import OBSERVATION, Array, StepResult

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)

GAMES = ("breakout", "seaquest")
SEEDS = (11, 12, 13, 14)
"""Of four slots; neighbours play different games."""


def make(games: str, slots: Sequence[int], **settings: Any) -> SlotEnv:
    return parse_environment(games, AtariConfig.model_validate({"noop_max": 0, **settings})).make(slots)


def shrunk(screen: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """84 by 84 pixels, each the average over the area that it covers; not rounded."""
    for axis in (0, 1):
        size = screen.shape[axis]
        edges = np.arange(85) * size / 84
        pixels = np.floor(edges[:-1, None]).astype(int) + np.arange(4)
        covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        weights = np.maximum(covered, 0) * 84 / size
        taken = np.moveaxis(screen, axis, 0)[np.minimum(pixels, size - 1)]
        screen = np.moveaxis((taken * weights[..., None]).sum(axis=1), 0, axis)
    return screen


class Emulator:
    """One game on ALE, stepped frame by frame."""

    def __init__(self, game: str, seed: int, sticky: float = 0.0) -> None:
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", sticky)
        self.ale.setInt("random_seed", seed)
        rom = roms.get_rom_path(game)
        assert rom is not None
        self.ale.loadROM(rom)
        self.screens = [self.screen()]

    def screen(self) -> npt.NDArray[np.float64]:
        return np.asarray(self.ale.getScreenGrayscale(), np.float64)

    def reset(self, fire: bool = False, noops: int = 0) -> None:
        self.ale.reset_game()
        for action in [ale_py.Action.NOOP] * noops + [ale_py.Action.FIRE] * fire:
            self.ale.act(action)
        self.screens = [self.screen()]

    def step(self, action: ale_py.Action, frames: int = 4) -> float:
        """The reward of an action that is held for this many frames."""
        self.screens, reward = [], 0.0
        while len(self.screens) < frames and not self.ale.game_over():
            reward += self.ale.act(action)
            self.screens.append(self.screen())
        return reward

    def picture(self, pooled: bool) -> npt.NDArray[np.float64]:
        """What the last frame, or the maximum of the last two, looks like in 84 by 84 before it is rounded."""
        screen = np.max(self.screens[-2:], axis=0) if pooled else self.screens[-1]
        return shrunk(screen)


def shows(frame: Array, emulator: Emulator, pooled: bool = True) -> bool:
    return bool(np.abs(frame - emulator.picture(pooled)).max() < 0.501)


OPTIONS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "last frame only": {"max_pool": False},
    "every frame": {"frame_skip": 1},
    "every fifth frame": {"frame_skip": 5, "max_pool": False},
    "sticky": {"sticky_actions": 0.25},
    "fire, sticky": {"fire_reset": True, "sticky_actions": 0.5, "frame_skip": 3},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_step_is_the_emulators(name: str) -> None:
    """Pictures, rewards, ends, and the lives, which are lost in the very step in which the game takes them."""
    config = AtariConfig.model_validate({"noop_max": 0, **OPTIONS[name]})
    env = make(",".join(GAMES), [0, 1, 0, 1], **OPTIONS[name])
    emulators = [Emulator(GAMES[i % 2], seed, config.sticky_actions) for i, seed in enumerate(SEEDS)]
    for emulator in emulators:
        emulator.reset(config.fire_reset)
    entry = env.reset(SEEDS)
    random = np.random.default_rng(0)
    lost, pooled_differ, opened = np.zeros(4, int), 0, np.ones(4, bool)
    for step in range(1300 // config.frame_skip):
        frames = entry.observation[OBSERVATION]
        for slot, emulator in enumerate(emulators):
            # The last picture of an episode is one from before its end: ale-py takes none in an unfinished step.
            if (step % 5 == 0 or opened[slot] or entry.life_lost[slot]) and not entry.terminated[slot]:
                assert shows(frames[slot, -1], emulator, config.max_pool)
                pooled_differ += not shows(frames[slot, -1], emulator, not config.max_pool)
        actions = random.integers(0, 18, 4)
        opened, entry = entry.terminated, env.step(actions)
        for slot, emulator in enumerate(emulators):
            lives = emulator.ale.lives()
            if opened[slot]:
                emulator.reset(config.fire_reset)
                reward = 0.0
            else:
                reward = emulator.step(ale_py.Action(int(actions[slot])), config.frame_skip)
            over = emulator.ale.game_over()
            fewer = emulator.ale.lives() < lives and not over and not opened[slot]
            got = (entry.reward[slot], entry.terminated[slot], entry.truncated[slot], entry.life_lost[slot])
            assert got == (reward, over, False, fewer)
            lost[slot] += fewer
    assert lost[[0, 2]].sum() >= 2
    assert lost[[1, 3]].sum() >= 1 or config.frame_skip == 1
    assert (pooled_differ > 0) == (config.frame_skip > 1)
    env.close()


def test_sticky_actions_repeat_the_last_one() -> None:
    """Else the comparison above would say nothing about them."""
    for game in GAMES:
        free, sticky = Emulator(game, 11), Emulator(game, 11, 0.25)
        for step in range(60):
            for emulator in (free, sticky):
                emulator.step(ale_py.Action((3, 4, 1)[step % 3]))
        assert not np.array_equal(free.screens[-1], sticky.screens[-1])


@pytest.mark.parametrize("game", ["asterix", "yars_revenge"])
@pytest.mark.parametrize("most", [1, 3])
def test_an_episode_opens_with_none_to_noop_max_noops(game: str, most: int) -> None:
    """As many as the option says, none included; in games that move by themselves."""
    emulator, pictures = Emulator(game, 0), []
    for noops in range(most + 2):
        emulator.reset(noops=noops)
        pictures.append(emulator.picture(pooled=False))
    env = make(game, [0] * 8, noop_max=most)
    counts = []
    for start in (0, 8, 16):
        frames = env.reset(range(start, start + 8)).observation[OBSERVATION][:, -1]
        for frame in frames:
            fits = [noops for noops, picture in enumerate(pictures) if np.abs(frame - picture).max() < 0.501]
            assert len(fits) == 1
            counts += fits
    assert set(counts) == set(range(most + 1))
    env.close()


def test_the_cap_counts_the_frames_that_were_played() -> None:
    """101 frames are 25 steps and one of a single frame; the game continues, so it is a truncation."""
    env = make(",".join(GAMES), [0, 1], frame_cap=101, noop_max=7)
    env.reset([1, 2])
    for _ in range(2):
        entries = [env.step(np.array([0, 0])) for _ in range(26)]
        assert [bool(entry.truncated.all()) for entry in entries] == [False] * 25 + [True]
        assert not any(entry.terminated.any() or entry.truncated.any() for entry in entries[:-1])
        opened = env.step(np.array([0, 0]))
        assert not (opened.truncated | opened.terminated).any()
        assert not opened.observation[OBSERVATION][:, :3].any()
    env.close()


@pytest.mark.parametrize("pooled", [False, True])
def test_a_film_shows_the_screen_as_it_is_now(pooled: bool) -> None:
    config = AtariConfig(noop_max=0, sticky_actions=0.0, max_pool=pooled)
    env = AtariTasks(["breakout"], [0, 0], config, 1, full=False, for_video=True)
    assert env.metadata["render_modes"] == ["rgb_array"]
    assert env.render() is None, "nothing was begun"
    env.reset(seed=[5, 6])
    emulator = Emulator("breakout", 5)
    emulator.reset()
    for step in range(40):
        for _ in range(4):
            before = emulator.ale.getScreenRGB()
            emulator.ale.act(ale_py.Action((1, 3, 4)[step % 3]))
        env.step(np.array([(1, 2, 3)[step % 3], 0]))
        screen, pictures = emulator.ale.getScreenRGB(), env.render()
        assert pictures is not None
        assert np.array_equal(pictures[0], np.maximum(before, screen) if pooled else screen)
    env.close()
    for for_video, mode in ((True, "rgb_array"), (False, None)):
        assert AtariTasks(["pong"], [0], config, 1, full=False, for_video=for_video).render_mode == mode


@pytest.mark.parametrize("game", ["freeway", "seaquest"])
@pytest.mark.parametrize("full", [None, False, True])
def test_actions_are_the_minimal_set_or_all(game: str, full: bool | None) -> None:
    """In the emulator's order; freeway knows three."""
    env = make(game, [0], full_action_space=full)
    emulator = Emulator(game, 5)
    actions = [ale_py.Action(number) for number in range(18)] if full else emulator.ale.getMinimalActionSet()
    assert env.spec.action.choices == (len(actions),)
    assert len(emulator.ale.getMinimalActionSet()) == {"freeway": 3, "seaquest": 18}[game]
    entry: StepResult = env.reset([5])
    emulator.reset()
    for number in [*range(len(actions))] * 4:
        for _ in range(3):
            entry = env.step(np.array([number]))
            assert entry.reward[0] == emulator.step(actions[number])
            assert shows(entry.observation[OBSERVATION][0, -1], emulator)
    env.close()
