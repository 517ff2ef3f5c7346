"""A person records, on SDL's driver without a display; the keys come from the environment, in step with the game."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import posting_env
import pygame
import pytest
from posting_env import DOWN, LENGTH, UP, Posting, tap

from machina.config import EnvConfig
from machina.demonstrations import Who, load_set
from machina.envs.builders import ENVIRONMENTS
from machina.jobs.record import Kept, RecordingPlan, record

PERSON, SCRIPT = int(Who.PERSON), int(Who.SCRIPT)


@pytest.fixture(autouse=True)
def no_display(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The driver without a display, and the environment under a name."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setitem(ENVIRONMENTS, "posting", posting_env.make)
    monkeypatch.setattr(Posting, "times", [], raising=False)
    pygame.display.init()  # so that the first reset can post
    yield
    pygame.display.quit()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys.yaml"
    file.write_text("keys: {left: 1, right: 2, left+right: 0}\nidle: 0\n")
    return file


def play(
    monkeypatch: pytest.MonkeyPatch, plan: dict[tuple[int, int], Any], out: Path, keys: Path, **options: Any
) -> tuple[list[Kept], bool]:
    monkeypatch.setattr(Posting, "plan", plan, raising=False)
    return record(RecordingPlan("posting", EnvConfig(), out, **{"episodes": 1, "seed": 3, "keys": keys, **options}))


def test_held_and_tapped_keys_are_the_actions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keys: Path) -> None:
    plan = {
        (0, 2): [(0.0, DOWN, pygame.K_LEFT)],
        (0, 5): [(0.0, DOWN, pygame.K_RIGHT)],
        (0, 6): [(0.0, UP, pygame.K_LEFT)],
        (0, 8): [(0.0, UP, pygame.K_RIGHT)],
        (0, 10): tap(pygame.K_RIGHT),
        (0, LENGTH): tap(pygame.K_RETURN),
    }
    kept, stopped = play(monkeypatch, plan, tmp_path / "demos", keys)
    (episode,) = load_set(tmp_path / "demos").episodes
    assert (stopped, [each.file for each in kept]) == (False, [episode.path])
    arrays = episode.arrays()
    expected = [0, 0, 1, 1, 1, 0, 2, 2, 0, 0, 2, *[0] * 9]
    assert arrays["action"].tolist() == expected == [action for _, action in Posting.times]
    assert arrays["who"].tolist() == [PERSON] * LENGTH
    assert arrays["observation/observation"][:, 0].tolist() == list(range(LENGTH + 1))
    assert [int(picture[0, 0, 0]) for picture in episode.pictures()] == list(range(LENGTH + 1))
    assert (episode.header.players, episode.header.episode_return) == ({"person": "person"}, LENGTH)


def test_backspace_discards_and_another_seed_is_played(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keys: Path
) -> None:
    plan = {(0, LENGTH): tap(pygame.K_BACKSPACE), (1, LENGTH): tap(pygame.K_RETURN)}
    kept, _ = play(monkeypatch, plan, tmp_path / "demos", keys)
    (episode,) = load_set(tmp_path / "demos").episodes
    assert len(kept) == 1
    assert episode.arrays()["observation/observation"][0, 1] == 1
    play(monkeypatch, {(0, LENGTH): tap(pygame.K_RETURN)}, tmp_path / "kept", keys)
    (first,) = load_set(tmp_path / "kept").episodes
    assert first.header.seed != episode.header.seed


def test_pause_stops_the_game_and_n_makes_single_steps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keys: Path
) -> None:
    moments = (0.3, 0.6, 0.9)
    keys_then = [*tap(pygame.K_n, moments[0]), *tap(pygame.K_n, moments[1]), *tap(pygame.K_p, moments[2])]
    plan = {
        (0, 5): [*tap(pygame.K_p), *keys_then],
        (0, LENGTH): tap(pygame.K_RETURN),
    }
    play(monkeypatch, plan, tmp_path / "demos", keys)
    times = [moment for moment, _ in Posting.times]
    since_pause = [moment - times[4] for moment in times[5:]]
    for measured, expected in zip(since_pause[:3], moments, strict=True):
        assert expected <= measured + 1e-3
        assert measured < expected + 0.25
    assert since_pause[-1] < 1.5  # and then it goes on by itself


def test_plus_and_minus_change_the_speed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keys: Path) -> None:
    """200 steps per second, slowed down 16 times for five steps."""
    plan = {
        (0, 5): [event for _ in range(4) for event in tap(pygame.K_MINUS)],
        (0, 10): [event for _ in range(4) for event in tap(pygame.K_PLUS)],
        (0, LENGTH): tap(pygame.K_RETURN),
    }
    play(monkeypatch, plan, tmp_path / "demos", keys)
    times = np.array([moment for moment, _ in Posting.times])
    assert times[9] - times[5] > 4 * 16 / 200 - 0.05
    assert times[19] - times[11] < 4 * 16 / 200


def test_tab_takes_over_and_hands_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keys: Path) -> None:
    plan = {
        (0, 6): [*tap(pygame.K_TAB), (0.0, DOWN, pygame.K_RIGHT)],
        (0, 12): [*tap(pygame.K_TAB), (0.0, UP, pygame.K_RIGHT)],
        (0, LENGTH): tap(pygame.K_RETURN),
        (1, 3): tap(pygame.K_TAB),
        (1, LENGTH): tap(pygame.K_RETURN),
    }
    play(monkeypatch, plan, tmp_path / "demos", keys, script="random", person=True, episodes=2)
    first, second = load_set(tmp_path / "demos").episodes
    who = first.arrays()["who"].tolist()
    assert who == [SCRIPT] * 6 + [PERSON] * 6 + [SCRIPT] * 8
    actions = first.arrays()["action"].tolist()
    assert actions[6:12] == [2] * 6
    assert len(set(actions[:6] + actions[12:])) > 1
    assert first.header.players == {"script": "random", "person": "person"}
    # A new episode begins with the script.
    assert second.arrays()["who"].tolist() == [SCRIPT] * 3 + [PERSON] * 17


def test_closing_the_window_loses_only_the_unfinished_episode(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keys: Path
) -> None:
    plan = {(0, LENGTH): tap(pygame.K_RETURN), (1, 7): [(0.0, pygame.QUIT, 0)]}
    kept, stopped = play(monkeypatch, plan, tmp_path / "demos", keys, episodes=5)
    assert (len(kept), stopped) == (1, True)
    assert len(load_set(tmp_path / "demos").episodes) == 1
    assert [path.name for path in (tmp_path / "demos").iterdir()] == ["000000.episode"]


def test_closing_the_window_at_the_question_keeps_the_finished_episode(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keys: Path
) -> None:
    kept, stopped = play(monkeypatch, {(0, LENGTH): [(0.0, pygame.QUIT, 0)]}, tmp_path / "demos", keys, episodes=5)
    assert (len(kept), stopped) == (1, False)
    assert Posting.times[LENGTH:] == []


def test_without_an_idle_action_the_game_waits_for_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The keys of an environment that none are known for: its numbers."""
    plan = {(0, step): tap(pygame.K_2, 0.3 if step == 4 else 0.0) for step in range(LENGTH)}
    plan[0, LENGTH] = tap(pygame.K_RETURN)
    monkeypatch.setattr(Posting, "plan", plan, raising=False)
    record(RecordingPlan("posting", EnvConfig(), tmp_path / "demos", episodes=1, seed=3))
    (episode,) = load_set(tmp_path / "demos").episodes
    assert episode.arrays()["action"].tolist() == [2] * LENGTH
    times = [moment for moment, _ in Posting.times]
    assert times[4] - times[3] > 0.28
