"""``machina report``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from tyro.conf import Positional

from machina.cli.options import parse
from machina.config import Config, Seed


class ReportOptions(Config):
    """Put pictures, tables and a film of a run on one page, `report/report.md`.

    For a league: ratings, a table of every snapshot against every other, how often each was met, and a film of the
    latest policy against the game's scripted player. For other runs: learning curves and scores.
    """

    run: Positional[Path] = Field(description="Run directory.")
    games: int = Field(
        default=20,
        ge=2,
        le=10_000,
        multiple_of=2,
        description="League: games of each pair of players, both seats equally often.",
    )
    snapshots: int = Field(
        default=10,
        ge=1,
        le=1000,
        description="League: snapshots in the table, spread evenly from the first to the last.",
    )
    seed: Seed = Field(
        default=0,
        description="League: seeds the film, and those games of the table that were not played before.",
    )


def run(arguments: list[str]) -> int:
    """Make the report and say where its files are."""
    options = parse(ReportOptions, arguments, "machina report")

    from rich.console import Console

    from machina.cli.progress_bar import progress_of
    from machina.jobs.report import write_report

    with progress_of("games", Console()) as progress:
        report = write_report(options.run, options.games, options.snapshots, options.seed, progress)
    for line in (*report.missing, *report.files):
        print(line)
    return 0
