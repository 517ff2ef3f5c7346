"""Films show what the environment drew, at its own speed, whatever form its pictures have."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import imageio_ffmpeg
import numpy as np
import pytest
from pictures_env import FPS, HEIGHT, PICTURES, WIDTH
from runs import SMALL

import machina
from machina.envs.pictures import as_picture, stated_fps
from machina.jobs.film import film
from machina.types import Array


def trained(folder: Path, environment: str) -> Path:
    options = {**SMALL, "envs_per_task": 2, "total_frames": 20}
    return machina.train("impala", environment, name="run", runs_dir=folder, **options).path


def read(file: Path) -> tuple[dict[str, Any], list[Array]]:
    reader = imageio_ffmpeg.read_frames(str(file))
    meta = next(reader)
    width, height = meta["size"]
    return meta, [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


@pytest.mark.parametrize("picture", PICTURES)
def test_every_form_of_picture_is_shown_at_its_speed(picture: str, tmp_path: Path) -> None:
    run = trained(tmp_path, f"pictures_env:Film_{picture}-v0")
    meta, frames = read(film(run).file)
    assert meta["fps"] == FPS
    assert meta["size"] == (WIDTH, HEIGHT)
    assert len(frames) == 7
    # The last one has changed its size where it does; its middle line still shows both halves.
    for frame in (frames[0], frames[-1]):
        left, right = (frame[HEIGHT // 2, column].astype(int) for column in (WIDTH // 3, 2 * WIDTH // 3))
        assert right.min() > 235, picture
        if picture in ("grey", "bools"):
            assert np.abs(left - (127 if picture == "grey" else 0)).max() < 15
        else:
            assert left[0] > 220, picture
            assert left[1:].max() < 35
    if picture == "wide":  # its sides stay in proportion: a third of the height, black above and below
        assert frames[-1][HEIGHT // 6].max() < 30
        assert frames[-1][HEIGHT // 2 - 8, -4].min() > 220


def test_pettingzoo_states_its_speed_as_well(tmp_path: Path) -> None:
    meta, frames = read(film(trained(tmp_path, "pictures_env:parallel_env")).file)
    assert meta["fps"] == FPS
    assert frames[0][HEIGHT // 2, 2 * WIDTH // 3].min() > 235


@pytest.mark.parametrize("drawn", [None, [], "ansi", np.zeros(5), np.zeros((0, 4, 3)), np.zeros((5, 5, 2)), [None]])
def test_what_is_no_picture(drawn: Any) -> None:
    assert as_picture(drawn) is None


def test_numbers_become_bytes() -> None:
    grey = np.array([[0.0, 0.5], [np.nan, 1.0]])
    assert as_picture(grey)[..., 0].tolist() == [[0, 128], [0, 255]]  # type: ignore[index]
    assert as_picture(np.array([[0, 300], [-5, 7]]))[..., 2].tolist() == [[0, 255], [0, 7]]  # type: ignore[index]
    assert as_picture(np.array([[0.5, 1.02]]))[..., 1].tolist() == [[128, 255]]  # type: ignore[index]
    assert as_picture(np.array([[0.4, 254.6]]))[..., 1].tolist() == [[0, 255]]  # type: ignore[index]


@pytest.mark.parametrize("fps", [None, 0, -3, float("nan"), float("inf"), "fast", [1]])
def test_speeds_that_are_none(fps: Any) -> None:
    assert stated_fps({"render_fps": fps}) is None
    assert stated_fps({}) is stated_fps(None) is None


EARLY = """
import os
import gymnasium
from pictures_env import Pictured

chosen = os.environ.get("MUJOCO_GL")

class Early(Pictured):
    def render(self):
        assert chosen == "egl", chosen
        return super().render()

gymnasium.register("Early-v0", Early, kwargs={"picture": "rgb"})
"""


def test_a_library_that_chooses_how_it_draws_when_it_is_imported_can_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.setenv(variable, "")  # restored afterwards
        monkeypatch.delenv(variable)
    (tmp_path / "early_env.py").write_text(EARLY)
    monkeypatch.syspath_prepend(tmp_path)
    run = machina.train(
        "impala", "early_env:Early-v0", name="run", runs_dir=tmp_path, **SMALL, processes=False, total_frames=20
    ).path
    monkeypatch.delitem(sys.modules, "early_env")  # as in `machina watch`, which has not imported it yet
    monkeypatch.delitem(gymnasium.registry, "Early-v0")
    assert film(run).frames == 7
