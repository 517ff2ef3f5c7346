"""``machina plot``."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import Field
from tyro.conf import Positional

from machina.cli.options import parse
from machina.config import Config
from machina.errors import UserError


class PlotOptions(Config):
    """Draw learning curves, with seeds of one configuration as one, and scores against published ones, as png."""

    runs: Positional[tuple[Path, ...]] = Field(description="Run directories.")
    out: Path | None = Field(default=None, description="The png of the curves; None: the first run's report folder.")


def run(arguments: list[str]) -> int:
    """Draw and say where the pictures are."""
    options = parse(PlotOptions, arguments, "machina plot")

    from machina.checkpoint import RunDirectory
    from machina.report.curves import split_plottable
    from machina.report.evaluation import latest_evaluation
    from machina.report.plots import plot_atari_bars, plot_learning_curves

    if not options.runs:
        raise UserError("plot needs at least one run directory: machina plot runs/NAME")
    directories = [RunDirectory.open(path) for path in options.runs]
    plottable, missing = split_plottable([each.path for each in directories])
    for line in missing:
        print(f"machina: left out: {line}", file=sys.stderr)
    curves = options.out or RunDirectory(plottable[0]).report / "learning_curves.png"
    print(plot_learning_curves(plottable, curves))
    for directory in directories:
        if not any(directory.report.glob("evaluation-*.json")):
            continue
        result = latest_evaluation(directory.report)
        if result.aggregate() is None:
            continue
        protocol = ", ".join(f"{name} {value}" for name, value in result.protocol.items())
        title = f"{directory.path.name}, env step {result.step:,}\n{protocol}"
        print(plot_atari_bars(result.mean_returns, directory.report / "atari_scores.png", title))
    return 0
