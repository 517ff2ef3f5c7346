"""The report of a run: pictures, tables and a film on one page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from machina.checkpoint import RunDirectory
from machina.errors import RunFailedError, UserError
from machina.jobs.cross_table import cross_play, evenly_spread
from machina.jobs.film import film
from machina.jobs.match import RunPlayers, heuristic
from machina.launch.configuration import AnyRunConfig, saved_config
from machina.league.ratings import win_probability
from machina.league.table import CrossTable, LeagueTable
from machina.metrics import read_metrics
from machina.play.matches import Progress
from machina.report.evaluation import latest_evaluation
from machina.report.league_plots import plot_cross_table, plot_met, plot_ratings
from machina.report.page import (
    Predictions,
    Section,
    evaluation_lines,
    film_lines,
    met_lines,
    picture,
    prediction_line,
    ratings_lines,
    write_page,
)
from machina.report.plots import plot_atari_bars, plot_learning_curves
from machina.report.screen import duration

FILM_STEPS = 5000
"""Longest film, in env steps."""


class Report(NamedTuple):
    """What was written."""

    files: tuple[Path, ...]
    """The page comes last."""
    missing: tuple[str, ...]
    """What the page could not have, a line each."""


class _Pages:
    """Collects what the page will show."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.page = run.report / "report.md"
        self.sections: list[Section] = []
        self.files: list[Path] = []
        self.missing: list[str] = []

    def show(self, title: str, *lines: str) -> None:
        """Add a section."""
        self.sections.append(Section(title, lines))

    def draw(self, file: Path) -> str:
        """Note a picture; what stands for it on the page."""
        self.files.append(file)
        return picture(file, file.stem.replace("_", " "))

    def miss(self, title: str, why: object) -> None:
        """Add a section that can't be had."""
        self.missing.append(f"no {title.lower()}: {why}")
        self.show(title, f"None: {why}.")


def write_report(path: Path, games: int, snapshots: int, seed: int, progress: Progress | None = None) -> Report:
    """Make the pictures and the film of a run, and ``report/report.md`` that shows them.

    Args:
        path: run directory.
        games: that each pair of the cross-table of a league plays; those of earlier reports count.
        snapshots: at most this many of them are in the cross-table.
        seed: of the games and the film.
        progress: called with (games finished, games in all) while the cross-table is played.

    Raises:
        UserError: no such run, or something of its league is damaged.
        RunFailedError: an environment failed, or the disk is full or refuses.
    """
    run = RunDirectory.open(path)
    config = saved_config(run.path)
    pages = _Pages(run)
    players = RunPlayers(path)
    if players.league is not None:
        _show_league(pages, players, players.league, games, snapshots, seed, progress)
    _show_curves(pages)
    _show_scores(pages, needed=players.league is None)
    kind = "league of" if players.league is not None else f"{config.algorithm} on"
    write_page(
        pages.page, f"{run.path.resolve().name}: {kind} {config.environment}", _facts(run, config), pages.sections
    )
    return Report((*pages.files, pages.page), tuple(pages.missing))


def _facts(run: RunDirectory, config: AnyRunConfig) -> list[str]:
    lines = read_metrics(run.path)
    env_steps, wall_s = ((lines[-1].get(name) or 0.0) for name in ("env_steps", "wall_s")) if lines else (0.0, 0.0)
    return [
        f"run directory `{run.path}`, algorithm {config.algorithm}, seed {config.seed}, "
        "[configuration](../config.yaml)",
        f"{env_steps:,.0f} env steps in {duration(wall_s)}",
    ]


def _show_league(
    pages: _Pages,
    players: RunPlayers,
    league: LeagueTable,
    games: int,
    snapshots: int,
    seed: int,
    progress: Progress | None,
) -> None:
    report, name = pages.run.report, pages.run.path.resolve().name
    if not league.snapshots:
        pages.miss("Ratings", "the league has no snapshot yet")
    else:
        if league.climb:
            drawn = pages.draw(plot_ratings(league, report / "ratings.png", f"{name}: rating of its snapshots"))
            pages.show("Ratings", drawn, *ratings_lines(league))
        else:
            pages.miss("Ratings", "no rating games are over yet")
        chosen = evenly_spread(league.snapshots, snapshots)
        table = cross_play(players, chosen, games, seed, report / "cross_table.json", progress)
        pages.files.append(report / "cross_table.json")
        _show_cross_table(pages, league, table)
        drawn = pages.draw(plot_met(league, report / "met.png", f"{name}: training games against its snapshots"))
        pages.show("Who was met", drawn, *met_lines(league))
    _show_film(pages, players, seed)


def _show_cross_table(pages: _Pages, league: LeagueTable, table: CrossTable) -> None:
    counts = {count for row in table.games for count in row if count}
    if not counts:
        pages.miss("Everybody against everybody", "no pair has met")
        return
    count = str(min(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    title = f"{pages.run.path.resolve().name}: {count} games of each pair"
    drawn = pages.draw(plot_cross_table(table, pages.run.report / "cross_table.png", title))
    lines = [f"{count} games of each pair, both seats equally often, played for this report."]
    if (predictions := predicted_against_measured(league, table)) is not None:
        lines.append(prediction_line(predictions))
    pages.show("Everybody against everybody", drawn, *lines)


def predicted_against_measured(league: LeagueTable, table: CrossTable) -> Predictions | None:
    """How far the ratings' predictions are from a table of games that the ratings don't know; None without any pair."""
    mu = {row.name: row.mu for row in league.ratings}
    pairs: list[tuple[str, str, float, float]] = []
    chance = 0.0
    for i, a in enumerate(table.names):
        for j, b in enumerate(table.names[:i]):
            measured = table.win_rates[i][j]
            if measured is None or a not in mu or b not in mu:
                continue
            predicted = win_probability(mu[a] - mu[b])
            pairs.append((a, b, predicted, measured))
            # Mean absolute deviation of a share of n games, in the limit of many.
            chance += math.sqrt(2 / math.pi * predicted * (1 - predicted) / table.games[i][j])
    if not pairs:
        return None
    differences = [abs(predicted - measured) for _, _, predicted, measured in pairs]
    worst = pairs[differences.index(max(differences))]
    return Predictions(len(pairs), sum(differences) / len(pairs), chance / len(pairs), worst)


def _show_film(pages: _Pages, players: RunPlayers, seed: int) -> None:
    opponent = heuristic(players.factory.spec)
    try:
        made = film(pages.run.path, seed=seed, max_steps=FILM_STEPS, against=opponent)
    except (UserError, RunFailedError) as error:  # no checkpoint yet, or the game can't be drawn
        pages.miss("Film", error)
        return
    pages.files.append(made.file)
    scores = ", ".join(f"{label} {score:g}" for label, score in made.scores)
    pages.show("Film", *film_lines(made.file, pages.page, f"{scores}{made.remark}"))


def _show_curves(pages: _Pages) -> None:
    try:
        drawn = pages.draw(plot_learning_curves([pages.run.path], pages.run.report / "learning_curves.png"))
    except UserError as error:  # no episode has ended
        pages.miss("Learning curves", error)
        return
    pages.show("Learning curves", drawn, "Return of training episodes, mean of the last 100.")


def _show_scores(pages: _Pages, needed: bool) -> None:
    """The latest evaluation; a league, whose policy plays itself, may do without."""
    report = pages.run.report
    if not any(report.glob("evaluation-*.json")):
        if needed:
            pages.miss("Scores", f"no evaluation yet; make one: machina eval {pages.run.path}")
        return
    result = latest_evaluation(report)
    lines = evaluation_lines(result)
    if result.aggregate() is not None:
        title = f"{pages.run.path.resolve().name}, env step {result.step:,}"
        lines.insert(0, pages.draw(plot_atari_bars(result.mean_returns, report / "atari_scores.png", title)))
    pages.show("Scores", *lines)
