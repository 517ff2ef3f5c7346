"""Plots from real metrics files."""

from __future__ import annotations

import struct
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from machina.errors import UserError
from machina.metrics import MetricsWriter
from machina.report.curves import RATING, load_curves
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


def test_runs_that_differ_by_their_seed_are_one_curve(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, ["pong"], name != "c-1") for name in ("a-1", "a-2", "b", "c-1")]
    for run, seed, gamma in zip(runs, (1, 2, 1, 3), (0.9, 0.9, 0.8, 0.9), strict=True):
        options = [f"  gamma: {gamma}", "  clip: 0.2"][:: 1 if seed == 1 else -1]
        lines = [f"name: {run.name}", f"seed: {seed}", "runs_dir: x", "algo:", *options, ""]
        (run / "config.yaml").write_text("\n".join(lines))
    raised = (runs[1] / "metrics.jsonl").read_text().splitlines()[:-4]  # the second seed ended earlier
    (runs[1] / "metrics.jsonl").write_text("\n".join(raised) + "\n")

    three, other = load_curves(runs)
    assert (three.name, three.seeds, other.name, other.seeds) == ("a-1", 3, "b", 1)
    pong, single = three.curves["pong"], [load_curves([run])[0].curves["pong"] for run in runs]
    assert pong.frames[-1] == single[1].frames[-1] < single[0].frames[-1]
    parts = np.array([single[index].values[: len(pong.frames)] for index in (0, 1, 3)])
    assert np.allclose(pong.values, parts.mean(axis=0))
    assert np.allclose(pong.least, parts.min(axis=0))
    assert np.allclose(pong.largest, parts.max(axis=0))
    assert len(three.evaluations["pong"].frames) == 4 + 4 - 1, "the dots of both seeds that were evaluated"
    assert load_curves(runs[:2])[0].name == "a"
    assert png_size(plot_learning_curves(runs, tmp_path / "curves.png")) == (1040, 585)


def test_a_league_s_first_panel_is_the_rating(tmp_path: Path) -> None:
    run = make_run(tmp_path / "league", ["player"])
    writer = MetricsWriter(run, 20_000)
    writer.write({"league/rating": 5.0, "league/rating_sigma": 1.0}, 21_000, 84_000, 50.0)
    writer.close()
    (curves,) = load_curves([run])
    assert list(curves.curves) == [RATING, "player"]
    assert curves.curves[RATING].values.tolist() == [5.0]
    assert png_size(plot_learning_curves([run], tmp_path / "curves.png"))[0] > 1000


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
