"""Plots of runs and scores, as png files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from machina.errors import UserError
from machina.metrics import read_metrics
from machina.report.figures import COLOURS, STYLE, compact, empty_figure, write_png
from machina.report.scores import PUBLISHED, aggregate_normalized, human_normalized, published_scores, score_table
from machina.report.screen import duration
from machina.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RETURN_PREFIX = "episode_return/"
EVALUATION_PREFIX = "eval/"

_MARKERS = ("D", "o", "^", "s", "v")


class _Curve(NamedTuple):
    frames: FloatArray
    values: FloatArray


class _Run(NamedTuple):
    name: str
    returns: dict[str, _Curve]
    """Training returns by task."""
    evaluations: dict[str, _Curve]
    median: _Curve | None
    """Human-normalized median over games, when all tasks are Atari games and there are several."""
    frames: float
    wall_s: float


def plot_learning_curves(run_dirs: Sequence[Path], path: Path) -> Path:
    """Training return against frames: a panel per task, the runs laid over each other.

    Several Atari games get a first panel with their human-normalized median. Dots are evaluations.

    Raises:
        UserError: no run is given, or one has no finished episode yet.
    """
    if not run_dirs:
        raise UserError("no run to plot; give at least one run directory")
    import matplotlib as mpl

    runs = [_load(run_dir) for run_dir in run_dirs]
    with mpl.rc_context(STYLE):
        return write_png(_curves_figure(runs), path)


def plot_atari_bars(
    mean_returns: Mapping[str, float],
    path: Path,
    title: str,
    published: Sequence[str] = ("impala_deep_multitask", "impala_shallow", "impala_deep"),
) -> Path:
    """Human-normalized score per game as bars, beside published agents as markers.

    Args:
        mean_returns: Mean evaluation return by game; tasks that are no Atari games are left out.
        path: The png file.
        title: Says which run, checkpoint and protocol the scores are from.
        published: Columns of ``atari57_scores.csv``.

    Raises:
        UserError: no task is an Atari game with references, or a column is unknown.
    """
    import matplotlib as mpl

    references = {column: published_scores(column) for column in published}
    scored = {game: human_normalized(game, value) for game, value in mean_returns.items()}
    scores = sorted((score, game) for game, score in scored.items() if score is not None)
    if not scores:
        raise UserError(f"no Atari game among the tasks {', '.join(mean_returns) or '(none)'}; nothing to compare")
    with mpl.rc_context(STYLE):
        return write_png(_bars_figure(scores, references, title), path)


def _curves_figure(runs: Sequence[_Run]) -> Figure:
    tasks = list(dict.fromkeys(task for run in runs for task in run.returns))
    with_median = any(run.median is not None for run in runs)
    panels = len(tasks) + with_median
    columns = _num_columns(panels)
    rows = math.ceil(panels / columns)
    width, height = (8.0, 4.5) if panels == 1 else (max(8.0, 2.5 * columns), max(4.0, 1.75 * rows) + 1.0)
    figure = empty_figure(width, height)
    axes = [figure.add_subplot(rows, columns, index + 1) for index in range(panels)]
    if with_median:
        _draw_panel(axes[0], [run.median for run in runs], [None] * len(runs))
        axes[0].set_title("human-normalized median, %", fontweight="bold")
    for panel, task in zip(axes[int(with_median) :], tasks, strict=True):
        _draw_panel(panel, [run.returns.get(task) for run in runs], [run.evaluations.get(task) for run in runs])
        panel.set_title(task)
        _draw_human(panel, task)
    for index, panel in enumerate(axes):
        if index >= panels - columns:
            panel.set_xlabel("frames")
    axes[0].set_ylabel("" if with_median else "episode return, mean of 100")
    _draw_legend(figure, runs)
    return figure


def _bars_figure(
    scores: Sequence[tuple[float, str]], references: Mapping[str, Mapping[str, float]], title: str
) -> Figure:
    games = [game for _, game in scores]
    values = 100 * np.array([score for score, _ in scores])
    figure = empty_figure(9.0, 2.2 + 0.21 * len(games))
    axes = figure.add_subplot()
    colours = ["#009E73" if value >= 100 else "#56B4E9" if value > 0 else "#D55E00" for value in values]
    rows = np.arange(len(games))
    axes.barh(rows, values, color=colours, height=0.72, alpha=0.85, zorder=2)
    for (column, by_game), marker in zip(references.items(), _MARKERS, strict=False):
        places = [100 * by_game[game] for game in games]
        axes.plot(places, rows, marker, markersize=4, color="#333333", markerfacecolor="white", label=PUBLISHED[column])
    axes.axvline(100, color="#333333", linewidth=1, zorder=1)
    # Linear up to 10 %, so that random play (0) and what is worse than it have a place on a logarithmic axis.
    axes.set_xscale("symlog", linthresh=10, linscale=0.6)
    shown = [*values, *(100 * by_game[game] for by_game in references.values() for game in games)]
    axes.set_xlim(1.5 * min(-15.0, *shown), 1.6 * max(1000.0, *shown))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}%")
    axes.set_yticks(rows, [f"{game}  {value:,.1f}%" for game, value in zip(games, values, strict=True)], fontsize=8)
    axes.set_ylim(-0.7, len(games) - 0.3)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("human-normalized score (0 % random play, 100 % human), linear below 10 %")
    axes.set_title("\n".join([title, *_aggregates([score for score, _ in scores])]), loc="left")
    figure.legend(loc="outside lower left", ncols=1 if len(references) > 3 else len(references), fontsize=7.5)
    return figure


def _load(run_dir: Path) -> _Run:
    lines = read_metrics(run_dir)
    if not lines:
        raise UserError(f"run '{run_dir}' has no metrics; train it first, or give the folder that holds metrics.jsonl")
    returns = _curves(lines, RETURN_PREFIX)
    if not returns:
        raise UserError(f"run '{run_dir}' has no finished episode yet; train it longer")
    last = lines[-1]
    return _Run(
        name=run_dir.resolve().name,
        returns=returns,
        evaluations=_curves(lines, EVALUATION_PREFIX),
        median=_median_curve(lines),
        frames=last.get("frames") or 0.0,
        wall_s=last.get("wall_s") or 0.0,
    )


def _curves(lines: Iterable[Mapping[str, float | None]], prefix: str) -> dict[str, _Curve]:
    points: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        frames = line.get("frames") or 0.0
        for name, value in line.items():
            if name.startswith(prefix) and value is not None:
                points.setdefault(name.removeprefix(prefix), []).append((frames, value))
    return {task: _curve(pairs) for task, pairs in sorted(points.items())}


def _curve(pairs: Sequence[tuple[float, float]]) -> _Curve:
    frames, values = np.array(pairs, dtype=np.float32).T
    return _Curve(frames, values)


def _median_curve(lines: Sequence[Mapping[str, float | None]]) -> _Curve | None:
    """Over the games with an episode so far, from the moment when half of the run's games have one."""
    tasks = {name.removeprefix(RETURN_PREFIX) for line in lines for name in line if name.startswith(RETURN_PREFIX)}
    if len(tasks) < 2 or not tasks <= score_table().keys():
        return None
    pairs = []
    for line in lines:
        scores = [
            score
            for task in tasks
            if (value := line.get(RETURN_PREFIX + task)) is not None
            and (score := human_normalized(task, value)) is not None
        ]
        if 2 * len(scores) >= len(tasks):
            pairs.append((line.get("frames") or 0.0, 100 * float(np.median(scores))))
    return _curve(pairs) if pairs else None


def _draw_panel(axes: Axes, curves: Sequence[_Curve | None], evaluations: Sequence[_Curve | None]) -> None:
    for index, (curve, dots) in enumerate(zip(curves, evaluations, strict=True)):
        colour = COLOURS[index % len(COLOURS)]
        if curve is not None:
            marker = "." if len(curve.frames) == 1 else None
            axes.plot(curve.frames, curve.values, color=colour, linewidth=1.4, marker=marker)
        if dots is not None:
            axes.plot(dots.frames, dots.values, "o", color=colour, markersize=4, markerfacecolor="white")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda value, _: compact(value))
    axes.yaxis.set_major_formatter(lambda value, _: compact(value))
    axes.locator_params(nbins=4)
    axes.tick_params(labelsize=7.5, length=2)


def _draw_human(axes: Axes, task: str) -> None:
    """Lines for human and random play where they fall into the panel; they must not squeeze the curves."""
    row = score_table().get(task)
    if row is None:
        return
    low, high = axes.get_ylim()
    for name in ("human", "random"):
        if low < row[name] < high:
            axes.axhline(row[name], color="#888888", linewidth=0.8, linestyle=":" if name == "random" else "--")
            axes.annotate(
                name,
                (1, row[name]),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize=6.5,
                color="#888888",
            )
    axes.set_ylim(low, high)


def _draw_legend(figure: Figure, runs: Sequence[_Run]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=COLOURS[index % len(COLOURS)],
            linewidth=2,
            label=f"{run.name}   {compact(run.frames)} frames in {duration(run.wall_s)}",
        )
        for index, run in enumerate(runs)
    ]
    if any(run.evaluations for run in runs):
        handles.append(Line2D([], [], linestyle="", marker="o", color="#333333", markerfacecolor="white", label="eval"))
    figure.legend(handles=handles, loc="outside upper left", ncols=min(3, len(handles)))


def _aggregates(scores: Sequence[float]) -> list[str]:
    """A line for the title; none for a single game, whose aggregates say nothing."""
    if len(scores) == 1:
        return []
    total = aggregate_normalized(scores)
    interval = total.interquartile_mean
    return [
        f"{total.games} games: median {total.median.value:.1%}, mean {total.mean.value:.1%}, interquartile "
        f"mean {interval.value:.1%} (95 % interval {interval.low:.1%} to {interval.high:.1%})"
    ]


def _num_columns(panels: int) -> int:
    """A page a little wider than high, with few empty places."""
    narrow = min(7, math.ceil(math.sqrt(1.2 * panels)))
    return 1 if panels == 1 else min((narrow, narrow + 1), key=lambda columns: -panels % columns)
