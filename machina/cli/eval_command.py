"""``machina eval``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from tyro.conf import Positional

from machina.cli.options import parse
from machina.config import Config, Episodes, Seed


class EvalOptions(Config):
    """Score a run: exactly this many full episodes per task, on fresh environments with seeds of their own."""

    run: Positional[Path] = Field(description="Run directory.")
    episodes: Episodes = Field(default=30, description="Episodes per task.")
    games: tuple[str, ...] = Field(default=(), description="Tasks to play; all when left out.")
    seed: Seed = Field(default=0, description="Seeds environments and action sampling.")
    best: bool = Field(default=False, description="Take the best checkpoint instead of the latest.")


def run(arguments: list[str]) -> int:
    """Score a run and print the table."""
    options = parse(EvalOptions, arguments, "machina eval")

    from rich.console import Console

    from machina.cli.progress_bar import progress_of
    from machina.jobs.eval import evaluate_run
    from machina.report.evaluation import evaluation_table

    console = Console()
    with progress_of("episodes", console) as progress:
        result = evaluate_run(
            options.run, options.episodes, options.games, options.seed, options.best, progress=progress
        )
    console.print(evaluation_table(result))
    return 0
