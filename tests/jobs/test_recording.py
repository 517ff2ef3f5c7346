"""Recordings of policies and scripts: what is written is what the environment showed and was told."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_env import EPISODE, Faulty
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from runs import SMALL

import machina
from machina.actions import native_actions
from machina.config import EnvConfig
from machina.demonstrations import RecordedEpisode, load_set
from machina.envs.builders import ENVIRONMENTS, describe, parse_environment
from machina.envs.config import AtariConfig
from machina.errors import RunFailedError, UserError
from machina.jobs.record import Kept, RecordingPlan, record
from machina.jobs.replay import replay
from machina.types import OBSERVATION

CART_POLE = "CartPole-v1"


def plan(environment: str, out: Path, env: EnvConfig | None = None, **options: Any) -> RecordingPlan:
    return RecordingPlan(
        environment, env or describe(environment)(), out, **{"episodes": 2, "seed": 5, "script": "random", **options}
    )


def same_arrays(one: RecordedEpisode, other: RecordedEpisode) -> bool:
    pairs = zip(one.arrays().items(), other.arrays().items(), strict=True)
    return all(name == other_name and np.array_equal(a, b) for (name, a), (other_name, b) in pairs)


def test_the_recorded_actions_give_the_recorded_episode_again(tmp_path: Path) -> None:
    """In an environment for training, from the seed in the file; pictures change nothing."""
    env = AtariConfig(frame_cap=200, sticky_actions=0.25)
    record(plan("breakout", tmp_path, env))
    for episode in load_set(tmp_path).episodes:
        spec, arrays = episode.header.spec, episode.arrays()
        factory = parse_environment("breakout", env)
        assert factory.spec == spec
        slots = factory.make([0])
        assert episode.header.seed is not None
        entries = [slots.reset([episode.header.seed])]
        entries += [slots.step(action[None]) for action in arrays["action"]]
        slots.close()
        for t, entry in enumerate(entries):
            np.testing.assert_array_equal(
                arrays[f"observation/{OBSERVATION}"][t : t + 4], entry.observation[OBSERVATION][0]
            )
            for name in ("reward", "terminated", "truncated", "life_lost"):
                assert arrays[name][t] == getattr(entry, name)[0]
        assert len(list(episode.pictures())) == len(entries)
        assert next(episode.pictures()).shape == (210, 160, 3)


def test_the_same_seed_records_the_same_and_a_set_goes_on_with_other_seeds(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        record(plan(CART_POLE, tmp_path / folder, pictures=False))
    one, other = (load_set(tmp_path / folder).episodes for folder in ("one", "other"))
    assert all(map(same_arrays, one, other))
    record(plan(CART_POLE, tmp_path / "one", pictures=False))
    more = load_set(tmp_path / "one")
    assert len(more.episodes) == len(more.seeds) == 4
    assert [each.header.seed for each in more.episodes[:2]] == [each.header.seed for each in one]


def test_a_policy_plays_as_it_was_trained(tmp_path: Path) -> None:
    run = machina.train("impala", CART_POLE, "defaults", name="run", runs_dir=tmp_path, **SMALL, total_frames=400)
    told: list[Kept] = []
    record(plan(CART_POLE, tmp_path / "demos", script=None, policy=run.path, pictures=False), told.append)
    episodes = load_set(tmp_path / "demos").episodes
    assert [each.file for each in told] == [each.path for each in episodes]
    policy = machina.load_policy(run.path, seed=5)
    for episode in episodes:  # one stream of random numbers through all episodes
        arrays = episode.arrays()
        policy.reset()
        for t, action in enumerate(arrays["action"].tolist()):
            assert policy.act(arrays["observation/observation"][t], float(arrays["reward"][t])) == action
        assert set(arrays["who"].tolist()) == {1}
        assert episode.header.players == {"policy": f"{run.path} at env step {run.env_steps}"}


SCRIPTS = """
import numpy as np
def pendulum(observation, generator):
    return [2 * np.tanh(observation[2])]
def wrong(observation, generator):
    return 2
def raises(observation, generator):
    raise KeyError("left")
"""


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_scripts.py").write_text(SCRIPTS)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("scripts")
def test_a_script_acts_in_the_environment_s_numbers(tmp_path: Path) -> None:
    record(plan("Pendulum-v1", tmp_path / "demos", script="own_scripts:pendulum", pictures=False, episodes=1))
    (episode,) = load_set(tmp_path / "demos").episodes
    arrays = episode.arrays()
    expected = 2 * np.tanh(arrays["observation/observation"][:-1, 2:])
    np.testing.assert_allclose(native_actions(episode.header.spec.action, arrays["action"]), expected, rtol=1e-5)
    assert episode.header.players == {"script": "own_scripts:pendulum"}


@pytest.mark.usefixtures("scripts")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"script": "own_scripts:wrong"}, r"script 'own_scripts:wrong' returned 2: action 2 is none of 2 choices"),
        (
            {"script": "own_scripts:raises"},
            r"script 'own_scripts:raises' raised KeyError: 'left' \(.*own_scripts.py:8\)",
        ),
        ({"script": "own_scripts:absent"}, r"script 'own_scripts:absent': module 'own_scripts' has no function"),
        ({"script": "clever"}, r"script='clever': must be random, or module:function"),
        ({"policy": Path("runs/x")}, r"script='random' and policy='runs/x' both play; leave one out"),
        ({"policy": Path("runs/x"), "script": None}, r"'runs/x.*"),
    ],
)
def test_players_that_can_t_play_are_refused(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as caught:
        record(plan(CART_POLE, tmp_path / "demos", pictures=False, **options))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "demos").exists()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ("pong,breakout", r"has 2 tasks; record one, such as pong"),
        ("connect_four", r"has several agents; record an environment of one"),
    ],
)
def test_environments_that_can_t_be_recorded_are_refused(environment: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        record(plan(environment, tmp_path / "demos"))


def test_a_set_of_another_environment_is_not_mixed_with(tmp_path: Path) -> None:
    record(plan(CART_POLE, tmp_path, pictures=False))
    with pytest.raises(UserError, match=r"the environment of 000000.episode is CartPole-v1, here it is MountainCar-v0"):
        record(plan("MountainCar-v0", tmp_path, pictures=False))


class ThirdEpisodeFails(Faulty):
    """Two good episodes, then none."""

    episodes = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.episodes += 1
        if self.episodes > 2:
            raise RuntimeError("no more tokens")
        return super().reset(seed=seed, options=options)


def test_a_fault_of_the_environment_keeps_what_was_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(num_slots: int) -> SyncVectorEnv[Any, Any]:
        return SyncVectorEnv([ThirdEpisodeFails] * num_slots, autoreset_mode=AutoresetMode.NEXT_STEP)

    monkeypatch.setitem(ENVIRONMENTS, "tired", make)
    with pytest.raises(RunFailedError, match=r"recording stopped: environment 'tired': .*RuntimeError: no more tokens"):
        record(plan("tired", tmp_path, episodes=20, pictures=False))
    assert [each.header.length for each in load_set(tmp_path).episodes] == [EPISODE, EPISODE]


def test_ctrl_c_loses_only_the_unfinished_episode(tmp_path: Path) -> None:
    def interrupt(kept: Kept) -> None:
        if kept.file.stem == "000001":
            signal.raise_signal(signal.SIGINT)

    kept, stopped = record(plan(CART_POLE, tmp_path, episodes=50, pictures=False), interrupt)
    assert (len(kept), stopped) == (2, True)
    assert len(load_set(tmp_path).episodes) == 2


def test_a_film_of_an_episode(tmp_path: Path) -> None:
    import imageio_ffmpeg

    record(plan(CART_POLE, tmp_path / "demos"))
    episode = load_set(tmp_path / "demos").episodes[1]
    done = replay(tmp_path / "demos", 1, tmp_path / "x.mp4", None)
    assert done.pictures == episode.header.length + 1
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "x.mp4"))[0] == done.pictures
    frames = imageio_ffmpeg.read_frames(str(tmp_path / "x.mp4"), pix_fmt="rgb24")
    size = next(frames)["size"]
    assert size == (600, 400)
    first = np.frombuffer(next(frames), np.uint8).reshape(400, 600, 3).astype(int)
    assert np.abs(first - next(episode.pictures())).mean() < 3


def test_without_pictures_frames_are_shown_and_other_observations_not(tmp_path: Path) -> None:
    record(plan("pong", tmp_path / "pong", AtariConfig(frame_cap=80), pictures=False, episodes=1))
    assert replay(tmp_path / "pong", 0, tmp_path / "x.mp4", None).pictures == 21
    record(plan(CART_POLE, tmp_path / "demos", pictures=False))
    with pytest.raises(UserError, match=r"000000.episode has no pictures, and its observations are none; record it"):
        replay(tmp_path / "demos", 0, tmp_path / "y.mp4", None)


def test_a_window_shows_an_episode_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    record(plan("pong", tmp_path, AtariConfig(frame_cap=80), episodes=1))
    assert replay(tmp_path, 0, None, 2.0) == (21, False)


def test_without_a_display_a_window_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"^a window needs a display: DISPLAY is not set; set DISPLAY, or do without"):
        record(plan(CART_POLE, tmp_path, script=None))
