"""Plots of runs and scores, as png files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from machina.errors import UserError
from machina.report.curves import MEDIAN, RATING, Curve, Runs, load_curves
from machina.report.figures import COLOURS, STYLE, compact, empty_figure, write_png
from machina.report.scores import PUBLISHED, aggregate_normalized, human_normalized, published_scores, score_table
from machina.report.screen import duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = ("D", "o", "^", "s", "v")
_LEGEND_LETTERS = 120
"""That fit into a row of the narrowest page."""


def plot_learning_curves(run_dirs: Sequence[Path], path: Path) -> Path:
    """Training return against frames: a panel per task, the runs laid over each other.

    Runs that differ by their seed only are one curve, their mean, in a band from the least to the largest. Several
    Atari games get a first panel with their human-normalized median, leagues one with the rating of their snapshots.
    Dots are evaluations.

    Raises:
        UserError: no run is given, or one has no finished episode yet.
    """
    import matplotlib as mpl

    runs = load_curves(run_dirs)
    with mpl.rc_context(STYLE):
        return write_png(_curves_figure(runs), path)


def plot_atari_bars(
    mean_returns: Mapping[str, float],
    path: Path,
    title: str,
    published: Sequence[str] = ("impala_deep_multitask", "impala_shallow", "impala_deep"),
) -> Path:
    """Human-normalized score per game as bars, with published agents as markers.

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


def _curves_figure(runs: Sequence[Runs]) -> Figure:
    names = list(dict.fromkeys(name for run in runs for name in run.curves))
    names.sort(key=lambda name: name not in (MEDIAN, RATING))
    columns = _num_columns(len(names))
    rows = math.ceil(len(names) / columns)
    width, height = (8.0, 4.5) if len(names) == 1 else (max(8.0, 2.5 * columns), max(4.0, 1.75 * rows) + 1.0)
    figure = empty_figure(width, height)
    for index, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, index + 1)
        _draw_panel(axes, [run.curves.get(name) for run in runs], [run.evaluations.get(name) for run in runs])
        axes.set_title(name, fontweight="bold" if name in (MEDIAN, RATING) else "normal")
        _draw_human(axes, name)
        if index >= len(names) - columns:
            axes.set_xlabel("frames")
        if index == 0 and name not in (MEDIAN, RATING):
            axes.set_ylabel("episode return, mean of 100")
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


def _draw_panel(axes: Axes, curves: Sequence[Curve | None], evaluations: Sequence[Curve | None]) -> None:
    for index, (curve, dots) in enumerate(zip(curves, evaluations, strict=True)):
        colour = COLOURS[index % len(COLOURS)]
        if curve is not None:
            marker = "." if len(curve.frames) == 1 else None
            axes.plot(curve.frames, curve.values, color=colour, linewidth=1.4, marker=marker)
            axes.fill_between(curve.frames, curve.least, curve.largest, color=colour, alpha=0.2, linewidth=0)
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


def _draw_legend(figure: Figure, runs: Sequence[Runs]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=COLOURS[index % len(COLOURS)],
            linewidth=2,
            label=f"{run.name}   {_seeds(run)}{compact(run.frames)} frames in {duration(run.wall_s)}",
        )
        for index, run in enumerate(runs)
    ]
    if any(run.evaluations for run in runs):
        handles.append(Line2D([], [], linestyle="", marker="o", color="#333333", markerfacecolor="white", label="eval"))
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(3, len(handles), _LEGEND_LETTERS // (longest + 6)))
    figure.legend(handles=handles, loc="outside upper left", ncols=columns)


def _seeds(run: Runs) -> str:
    return f"mean and range of {run.seeds} seeds, " if run.seeds > 1 else "one run, "


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
