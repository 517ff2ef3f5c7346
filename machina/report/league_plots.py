"""Pictures of a league, as png files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from machina.errors import UserError
from machina.league.table import CrossTable, LeagueTable, SnapshotRow
from machina.report.figures import COLOURS, STYLE, compact, empty_figure, write_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_WRITTEN_CELLS = 20
"""Players of a cross-table up to which every cell says its number."""

_LINESTYLES = ("--", ":", "-.")


def plot_ratings(league: LeagueTable, path: Path, title: str) -> Path:
    """Rating of the snapshots over env steps with a band of two standard deviations; other players as lines.

    Raises:
        UserError: no snapshot has a rating yet.
    """
    import matplotlib as mpl

    if not league.climb:
        raise UserError("no snapshot has a rating yet; train the league longer")
    with mpl.rc_context(STYLE):
        return write_png(_ratings_figure(league, title), path)


def plot_cross_table(table: CrossTable, path: Path, title: str) -> Path:
    """Win rates of every player (rows) against every other (columns) as a heat map."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        return write_png(_cross_figure(table, title), path)


def plot_met(league: LeagueTable, path: Path, title: str) -> Path:
    """How often each snapshot was met in training and how that came out; below, the probability of it now.

    Raises:
        UserError: the pool is empty.
    """
    import matplotlib as mpl

    if not league.snapshots:
        raise UserError("the pool is empty; train the league longer")
    with mpl.rc_context(STYLE):
        return write_png(_met_figure(league.snapshots, title), path)


def _ratings_figure(league: LeagueTable, title: str) -> Figure:
    figure = empty_figure(8.0, 4.5)
    axes = figure.add_subplot()
    steps = np.array([snapshot.env_steps for snapshot, _ in league.climb])
    mu = np.array([rating.mu for _, rating in league.climb])
    sigma = np.array([rating.sigma for _, rating in league.climb])
    axes.fill_between(steps, mu - 2 * sigma, mu + 2 * sigma, color=COLOURS[0], alpha=0.2, linewidth=0)
    marker = "o" if len(steps) <= 40 else None
    axes.plot(steps, mu, color=COLOURS[0], linewidth=1.4, marker=marker, markersize=3.5, label="snapshots, ± 2 sigma")
    for index, player in enumerate(league.fixed_players):
        colour = COLOURS[1 + index % (len(COLOURS) - 1)]
        if player.sigma:
            axes.axhspan(
                player.mu - 2 * player.sigma, player.mu + 2 * player.sigma, color=colour, alpha=0.12, linewidth=0
            )
        style = _LINESTYLES[index % len(_LINESTYLES)]
        axes.axhline(player.mu, color=colour, linewidth=1.1, linestyle=style, label=player.name)
    axes.set_xlim(left=0)
    axes.set_xlabel("env steps")
    axes.set_ylabel("rating, points")
    axes.xaxis.set_major_formatter(lambda value, _: compact(value))
    axes.set_title(title, loc="left")
    figure.legend(loc="outside upper left", ncols=4)
    return figure


def _cross_figure(table: CrossTable, title: str) -> Figure:
    from matplotlib.colors import LinearSegmentedColormap

    count = len(table.names)
    side = max(4.5, 0.46 * min(count, 2 * MOST_WRITTEN_CELLS) + 2.0)
    figure = empty_figure(side + 0.8, side)
    axes = figure.add_subplot()
    rates = np.array([[np.nan if rate is None else rate for rate in row] for row in table.win_rates], np.float64)
    colours = LinearSegmentedColormap.from_list("win rate", (COLOURS[1], "#ffffff", COLOURS[0]))
    image = axes.imshow(100 * np.ma.masked_invalid(rates), cmap=colours.with_extremes(bad="#dddddd"), vmin=0, vmax=100)
    if count <= MOST_WRITTEN_CELLS:
        _write_cells(axes, rates)
    axes.set_xticks(range(count), table.names, rotation=90, fontsize=7.5)
    axes.set_yticks(range(count), table.names, fontsize=7.5)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("against")
    bar = figure.colorbar(image, ax=axes, shrink=0.7, format=lambda value, _: f"{value:.0f}%")
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7.5, length=2)
    bar.set_label("games won by the row's player, a draw counting half")
    axes.set_title(title, loc="left")
    return figure


def _write_cells(axes: Axes, rates: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    for row, column in zip(*np.nonzero(~np.isnan(rates)), strict=True):
        rate = rates[row, column]
        colour = "white" if abs(rate - 0.5) > 0.35 else "#333333"
        axes.text(column, row, f"{100 * rate:.0f}", ha="center", va="center", fontsize=7, color=colour)


def _met_figure(snapshots: tuple[SnapshotRow, ...], title: str) -> Figure:
    figure = empty_figure(max(8.0, min(14.0, 0.22 * len(snapshots) + 2.0)), 5.5)
    met, now = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    places = np.arange(len(snapshots))
    bottom = np.zeros(len(snapshots))
    # Bottom to top; the present self's view.
    parts = {
        "won by the present self": ([each.wins for each in snapshots], COLOURS[0]),
        "drawn": ([each.draws for each in snapshots], "#bbbbbb"),
        "lost": ([each.losses for each in snapshots], COLOURS[1]),
    }
    for label, (counts, colour) in parts.items():
        met.bar(places, counts, bottom=bottom, color=colour, width=0.8, label=label)
        bottom += counts
    met.set_ylabel("games in training")
    met.yaxis.set_major_formatter(lambda value, _: compact(value))
    met.set_title(title, loc="left")
    now.bar(places, [100 * each.probability for each in snapshots], color=COLOURS[2], width=0.8)
    now.axhline(100 / len(snapshots), color="#333333", linewidth=0.8, linestyle=":")
    now.set_ylabel("probability now")
    now.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}%")
    now.set_xlabel("snapshot (dotted: all equally likely)")
    step = -(-len(snapshots) // 60)
    now.set_xticks(places[::step], [each.name for each in snapshots[::step]], rotation=90, fontsize=7)
    now.set_xlim(-0.7, len(snapshots) - 0.3)
    for axes in (met, now):
        axes.grid(axis="x", visible=False)
        axes.tick_params(length=2)
    figure.legend(loc="outside upper left", ncols=3)
    return figure
