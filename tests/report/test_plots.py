"""Plots from real metrics files."""

from __future__ import annotations

import struct
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from machina.errors import UserError
from machina.metrics import MetricsWriter
from machina.report.plots import plot_atari_bars, plot_learning_curves
from machina.report.scores import score_table


def png_size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(content) > 5000
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def make_run(run_dir: Path, tasks: list[str], evaluations: bool = False) -> Path:
    run_dir.mkdir()
    generator = np.random.default_rng(len(tasks))
    writer = MetricsWriter(run_dir)
    for step in range(1, 21):
        values = {"speed/env_steps_per_s": 1000.0}
        for index, task in enumerate(tasks):
            if step > index % 7:
                values[f"episode_return/{task}"] = float(step + generator.normal())
            if evaluations and step % 5 == 0:
                values[f"eval/{task}"] = float(step)
        writer.write(values, step * 1000, step * 4000, step * 2.0)
    writer.close()
    return run_dir


def test_one_task_two_runs(tmp_path: Path) -> None:
    style = dict(mpl.rcParams)
    runs = [make_run(tmp_path / "a", ["pong"], True), make_run(tmp_path / "b", ["pong"])]
    path = plot_learning_curves(runs, tmp_path / "report" / "curves.png")
    width, height = png_size(path)
    assert (width, height) == (1040, 585)
    assert [file.name for file in path.parent.iterdir()] == ["curves.png"]
    assert dict(mpl.rcParams) == style


def test_all_games_get_a_panel_each(tmp_path: Path) -> None:
    few = plot_learning_curves([make_run(tmp_path / "few", ["pong", "breakout"])], tmp_path / "few.png")
    many = plot_learning_curves([make_run(tmp_path / "many", list(score_table()))], tmp_path / "many.png")
    assert png_size(many)[0] > 1.5 * png_size(few)[0]
    assert png_size(many)[1] > 2 * png_size(few)[1]


def test_runs_with_different_tasks_share_a_page(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", ["catch"]), make_run(tmp_path / "b", ["pong", "breakout"])]
    width, height = png_size(plot_learning_curves(runs, tmp_path / "curves.png"))
    one_width, one_height = png_size(plot_learning_curves(runs[:1], tmp_path / "one.png"))
    assert width * height > one_width * one_height


def test_runs_without_anything_to_plot_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run to plot"):
        plot_learning_curves([], tmp_path / "x.png")
    with pytest.raises(UserError, match="has no metrics"):
        plot_learning_curves([tmp_path], tmp_path / "x.png")
    with pytest.raises(UserError, match="no finished episode yet"):
        plot_learning_curves([make_run(tmp_path / "young", [])], tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_bars_grow_with_the_games(tmp_path: Path) -> None:
    returns = {game: 0.5 * (row["random"] + row["human"]) for game, row in score_table().items()}
    all_games = plot_atari_bars(returns, tmp_path / "all.png", "all games")
    one_game = plot_atari_bars({"pong": -21.0, "CartPole-v1": 10.0}, tmp_path / "one.png", "one game", ("r2d2",))
    assert png_size(all_games)[1] > 4 * png_size(one_game)[1]
    with pytest.raises(UserError, match="no Atari game among the tasks CartPole-v1"):
        plot_atari_bars({"CartPole-v1": 10.0}, tmp_path / "x.png", "none")
