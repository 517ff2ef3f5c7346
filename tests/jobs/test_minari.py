"""Recorded episodes to Minari data sets and back, and data sets of others."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest

from machina.cli.main import main
from machina.demonstrations import load_set
from machina.envs.builders import describe
from machina.envs.config import AtariConfig
from machina.errors import UserError
from machina.jobs.demos_export import export_demos
from machina.jobs.demos_import import import_demos
from machina.jobs.record import RecordingPlan, record
from machina.types import Array


@pytest.fixture(autouse=True)
def own_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written into the home."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


OPTIONS: dict[str, dict[str, Any]] = {"pong": {"frame_cap": 120, "sticky_actions": 0.25}}


def recorded(environment: str, out: Path, episodes: int = 3) -> Path:
    env = describe(environment)(**OPTIONS.get(environment, {}))
    record(RecordingPlan(environment, env, out, episodes, seed=5, script="random", pictures=False))
    return out


@pytest.mark.parametrize("environment", ["CartPole-v1", "pong", "Pendulum-v1", "Blackjack-v1"])
def test_there_and_back_is_bit_for_bit(environment: str, tmp_path: Path) -> None:
    demos = recorded(environment, tmp_path / "demos")
    exported = export_demos(demos, tmp_path / "minari")
    env = describe(environment)(**OPTIONS.get(environment, {}))
    back = import_demos(exported.dataset_id, environment, env, tmp_path / "back")
    assert (len(back.files), back.refused, back.open_ended) == (3, (), ())
    before, after = load_set(demos).episodes, load_set(tmp_path / "back").episodes
    for one, other in zip(before, after, strict=True):
        assert one.header == other.header
        arrays, others = one.arrays(), other.arrays()
        assert arrays.keys() == others.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, others[name], strict=True, err_msg=name)
    assert [each.header.seed for each in before] == [each.header.seed for each in after]


def test_minari_itself_reads_what_the_environment_gives_again(tmp_path: Path) -> None:
    """With the stored seeds and actions the environment shows the stored observations."""
    demos = recorded("Pendulum-v1", tmp_path / "demos")
    data_set = minari.load_dataset(export_demos(demos, tmp_path / "minari").dataset_id)
    assert data_set.total_episodes == 3
    env = gymnasium.make("Pendulum-v1")
    for episode, metadata in zip(data_set, data_set.storage.get_episode_metadata(range(3)), strict=True):
        assert len(episode.observations) == len(episode.actions) + 1 == 201
        observation, _ = env.reset(seed=metadata["seed"])
        np.testing.assert_array_equal(episode.observations[0], observation, strict=True)
        for t, action in enumerate(episode.actions):
            observation, reward, terminated, truncated, _ = env.step(action)
            np.testing.assert_array_equal(episode.observations[t + 1], observation)
            assert episode.rewards[t] == np.float32(reward)
            assert (episode.terminations[t], episode.truncations[t]) == (terminated, truncated)


def test_whole_stacks_of_pixels_are_exported_without_loss(tmp_path: Path) -> None:
    """Minari's own recorder makes JPEGs of them."""
    demos = recorded("pong", tmp_path / "demos", 1)
    (episode,) = minari.load_dataset(export_demos(demos, tmp_path / "minari").dataset_id)
    frames = load_set(demos).episodes[0].arrays()["observation/observation"]
    expected = np.stack([frames[t : t + 4] for t in range(31)])
    np.testing.assert_array_equal(episode.observations, expected, strict=True)


def test_an_export_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    demos = recorded("CartPole-v1", tmp_path / "demos", 1)
    export_demos(demos, tmp_path / "minari")
    with pytest.raises(UserError, match=r"machina/CartPole-v0 is there already; remove it or name another folder"):
        export_demos(demos, tmp_path / "minari")


def test_another_protocol_is_refused_at_the_import(tmp_path: Path) -> None:
    exported = export_demos(recorded("pong", tmp_path / "demos", 1), tmp_path / "minari")
    with pytest.raises(UserError, match=r"sticky_actions \(protocol\) is 0.25, here it is 0.0; use the options that"):
        import_demos(exported.dataset_id, "pong", AtariConfig(frame_cap=120), tmp_path / "back")
    assert not (tmp_path / "back").exists()


def foreign(file: Path, **episodes: dict[str, Any]) -> Path:
    """A data set as others write it: the file alone."""
    with h5py.File(file, "w") as content:
        for name, parts in episodes.items():
            group = content.create_group(name)
            for part, array in parts.items():
                group.create_dataset(part, data=array)
    return file


def cart_pole_episode(steps: int = 5, **changes: Any) -> dict[str, Any]:
    flags = np.zeros(steps, np.bool_)
    flags[-1] = True
    return {
        "observations": np.arange(4.0 * (steps + 1)).reshape(steps + 1, 4),
        "actions": np.arange(steps) % 2,
        "rewards": np.arange(steps) / 2,
        "terminations": flags,
        "truncations": np.zeros(steps, np.bool_),
        **changes,
    }


def imported(file: Path, out: Path, environment: str = "CartPole-v1") -> tuple[Any, list[dict[str, Array]]]:
    result = import_demos(str(file), environment, describe(environment)(), out)
    return result, [{**each.arrays()} for each in load_set(out).episodes]


def test_a_data_set_of_others(tmp_path: Path) -> None:
    """float64 as most of them are; episodes in the order of their numbers."""
    file = foreign(
        tmp_path / "x.hdf5", **{f"episode_{number}": cart_pole_episode(number) for number in (10, 2, 9, 1, 11)}
    )
    result, episodes = imported(file, tmp_path / "demos")
    assert [len(each["action"]) for each in episodes] == [1, 2, 9, 10, 11]
    assert result.refused == ()
    one = episodes[1]
    np.testing.assert_array_equal(one["observation/observation"], np.arange(12, dtype=np.float32).reshape(3, 4))
    np.testing.assert_array_equal(one["reward"], np.array([0, 0, 0.5], np.float32), strict=True)
    np.testing.assert_array_equal(one["terminated"], [False, False, True])
    np.testing.assert_array_equal(one["who"], [3, 3])
    header = load_set(tmp_path / "demos").episodes[1].header
    assert (header.seed, header.players) == (None, {"unknown": str(file)})


def test_choices_become_one_hot_and_numbers_the_policy_s(tmp_path: Path) -> None:
    flags = {"terminations": [True], "truncations": [False]}
    lake = foreign(
        tmp_path / "lake.hdf5", episode_0={"observations": [0, 4], "actions": [1], "rewards": [0.0], **flags}
    )
    _, ((lake_episode),) = imported(lake, tmp_path / "lake", "FrozenLake-v1")
    np.testing.assert_array_equal(lake_episode["observation/observation"].argmax(axis=1), [0, 4])
    pendulum = foreign(
        tmp_path / "pendulum.hdf5",
        episode_0={"observations": np.zeros((2, 3)), "actions": [[-1.0]], "rewards": [0.0], **flags},
    )
    _, (episode,) = imported(pendulum, tmp_path / "pendulum", "Pendulum-v1")
    np.testing.assert_array_equal(episode["action"], np.array([[-0.5]], np.float32), strict=True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"observations": np.zeros((5, 4))}, "observation 'observation' is [5, 4], expected [6, 4]: one more than the"),
        ({"observations": np.zeros((7, 4))}, "observation 'observation' is [7, 4], expected [6, 4]: one more than the"),
        ({"observations": np.full((6, 4), np.nan)}, "observation 'observation' is not finite"),
        ({"rewards": np.zeros(6)}, "rewards are [6], expected [5]: as many as the actions"),
        ({"rewards": np.full(5, np.inf)}, "a reward is not finite"),
        ({"actions": np.full(5, 2)}, "action 2 is none of 2 choices"),
        ({"actions": np.zeros(5)}, "actions are float64, expected whole numbers"),
        ({"terminations": np.array([0, 1, 0, 0, 1], np.bool_)}, "it ends before its last step"),
    ],
    ids=["too few", "too many", "nan", "rewards", "inf", "choice", "float actions", "early end"],
)
def test_an_episode_that_does_not_fit_is_refused_and_the_others_are_taken(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    file = foreign(tmp_path / "x.hdf5", episode_0=cart_pole_episode(**changes), episode_1=cart_pole_episode(7))
    result, episodes = imported(file, tmp_path / "demos")
    assert [len(each["action"]) for each in episodes] == [7]
    (line,) = result.refused
    assert line.startswith(f"refused episode_0: {reason}")
    assert "\n" not in line


def test_episodes_with_neither_flag_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_ended = cart_pole_episode(terminations=np.zeros(5, np.bool_))
    file = foreign(tmp_path / "x.hdf5", episode_0=cart_pole_episode(), episode_1=open_ended, episode_2=open_ended)
    demos = tmp_path / "demos"
    assert main(["demos", "import", str(file), "--env", "CartPole-v1", "--out", str(demos)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "neither terminated nor truncated at the end: episode_1, episode_2",
        f"{demos}: 3 episodes imported, 0 refused",
    ]
    assert main(["demos", "info", str(demos)]) == 0
    assert capsys.readouterr().out.count("neither flag") == 2


def test_jpeg_pictures_are_refused(tmp_path: Path) -> None:
    """They are not what a policy would have seen."""
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as content:
        group = content.create_group("episode_0")
        rows = group.create_dataset("observations", (6,), dtype=h5py.vlen_dtype(np.uint8))
        for row in range(6):
            rows[row] = np.arange(row + 1, dtype=np.uint8)
        for part, array in cart_pole_episode().items():
            if part != "observations":
                group.create_dataset(part, data=array)
    with pytest.raises(UserError, match="is stored as JPEG pictures, which are not what was seen"):
        imported(path, tmp_path / "demos")


@pytest.fixture
def without_h5py(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that lacks it."""
    original = builtins.__import__

    def refuse(name: str, *rest: Any, **keywords: Any) -> Any:
        if name == "h5py":
            raise ModuleNotFoundError("No module named 'h5py'")
        return original(name, *rest, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.usefixtures("without_h5py")
@pytest.mark.parametrize("words", [["import", "x", "--env", "CartPole-v1"], ["export", "x"]])
def test_without_the_extra_one_line_says_what_to_install(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demos", *words, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        "machina: demos import and export need Minari and h5py (No module named 'h5py'); "
        "pip install 'machina-trainer[demos]'\n"
    )
