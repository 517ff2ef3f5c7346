"""``report/report.md``: everything about a run on one page."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from machina.checkpoint.files import write_or_refuse
from machina.league.table import SHOWN_RATINGS, LeagueTable, games_line, rating_text
from machina.report.evaluation import EvaluationResult, aggregate_line
from machina.report.scores import human_normalized


class Section(NamedTuple):
    """A part of the page."""

    title: str
    lines: Sequence[str]
    """Paragraphs, markdown."""


class Predictions(NamedTuple):
    """Win rates that the ratings predict against those that were measured."""

    pairs: int
    mean_difference: float
    """Of the absolute differences."""
    by_chance: float
    """What it would be about if the predictions were exact, for so few games were played."""
    worst: tuple[str, str, float, float]
    """A pair with the largest difference: its players, predicted and measured win rate of the first."""


def write_page(path: Path, title: str, facts: Sequence[str], sections: Sequence[Section]) -> Path:
    """Write the page.

    Raises:
        RunFailedError: the disk is full or refuses.
    """
    blocks = [f"# {title}", "\n".join(f"- {fact}" for fact in facts)]
    for section in sections:
        blocks += [f"## {section.title}", *section.lines]
    write_or_refuse(path, ("\n\n".join(blocks) + "\n").encode(), "report")
    return path


def picture(file: Path, alternative: str) -> str:
    """A picture next to the page."""
    return f"![{alternative}]({file.name})"


def film_lines(file: Path, page: Path, text: str) -> list[str]:
    """A film, as a player where the page's viewer has one and as a link."""
    place = Path(os.path.relpath(file, page.parent)).as_posix()
    return [f'<video src="{place}" controls width="480"></video>', f"[{file.name}](<{place}>): {text}"]


def markdown_table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose columns but the first are numbers."""
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def ratings_lines(league: LeagueTable) -> list[str]:
    """The best snapshots and the fixed players, and how far the snapshots climbed."""
    first, last = league.climb[0][1], league.climb[-1][1]
    highest = max((rating for _, rating in league.climb), key=lambda row: row.mu)
    rows = [(row.name, rating_text(row), f"{row.games:,}") for row in league.best(SHOWN_RATINGS)]
    return [
        f"{len(league.climb)} rated snapshots: from {rating_text(first)} ({first.name}) to {rating_text(last)} "
        f"({last.name}), at most {rating_text(highest)} ({highest.name}); ± is two standard deviations. Ratings come "
        "from rating games, never from training games.",
        markdown_table(("player", "rating", "rating games"), rows),
    ]


def prediction_line(predictions: Predictions) -> str:
    """How good the ratings' predictions are."""
    a, b, predicted, measured = predictions.worst
    return (
        f"Win rates that the ratings predict, against these games, over {predictions.pairs} pairs: mean difference "
        f"{predictions.mean_difference:.3f} (chance alone would make about {predictions.by_chance:.3f} with this many "
        f"games), worst {abs(predicted - measured):.3f}: {a} against {b}, predicted {predicted:.1%}, measured "
        f"{measured:.1%}."
    )


def met_lines(league: LeagueTable) -> list[str]:
    """Training games, and the extremes of the pool."""
    most = max(league.snapshots, key=lambda row: row.games)
    likely = league.most_probable(1)[0]
    return [
        f"{games_line(league).capitalize()}. Met most often: {most.name} ({most.games:,} games). Most probable now: "
        f"{likely.name} ({likely.probability:.1%}, {likely.wins:,} won, {likely.losses:,} lost, {likely.draws:,} drawn "
        "against it)."
    ]


def evaluation_lines(result: EvaluationResult) -> list[str]:
    """The score table of an evaluation."""
    rows = []
    for task, returns in result.episodes.items():
        average = statistics.fmean(returns)
        normalized = human_normalized(task, average)
        rows.append(
            (
                task,
                str(len(returns)),
                f"{average:,.2f}",
                f"{statistics.pstdev(returns):,.2f}",
                f"{max(returns):,.2f}",
                "–" if normalized is None else f"{normalized:.1%}",
            )
        )
    protocol = ", ".join(f"{name} {value}" for name, value in result.protocol.items())
    lines = [
        f"Checkpoint at env step {result.step:,}; protocol: {protocol or 'as the environment comes'}; evaluation seed "
        f"{result.seed}.",
        markdown_table(("task", "episodes", "mean return", "std", "best", "human-normalized"), rows),
    ]
    total = result.aggregate()
    if total is not None and total.games > 1:
        lines.append(aggregate_line(total))
    return lines
