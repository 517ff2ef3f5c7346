"""``machina plot``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import Field
from tyro.conf import Positional

from machina.cli.options import parse
from machina.config import Config
from machina.errors import UserError

T = TypeVar("T")
R = TypeVar("R")


class PlotOptions(Config):
    """Draw learning curves, with seeds of one configuration as one, and scores against published ones, as png."""

    runs: Positional[tuple[Path, ...]] = Field(description="Run directories.")
    out: Path | None = Field(default=None, description="The png of the curves; None: the first run's report folder.")


def run(arguments: list[str]) -> int:
    """Draw and say where the pictures are."""
    options = parse(PlotOptions, arguments, "machina plot")

    from machina.checkpoint import RunDirectory
    from machina.report.curves import check_plottable
    from machina.report.evaluation import latest_evaluation
    from machina.report.plots import plot_atari_bars, plot_learning_curves

    if not options.runs:
        raise UserError("plot needs at least one run directory: machina plot runs/NAME")
    if options.out is not None and options.out.suffix != ".png":
        raise UserError(f"out='{options.out}': pictures are PNG; give a name that ends in .png")
    directories = _usable(RunDirectory.open, options.runs)
    plottable = _usable(check_plottable, [each.path for each in directories])
    curves = options.out or RunDirectory(plottable[0]).report / "learning_curves.png"
    print(plot_learning_curves(plottable, curves))
    scored = [each for each in directories if any(each.report.glob("evaluation-*.json"))]
    for directory, result in _usable(lambda each: (each, latest_evaluation(each.report)), scored):
        if result.aggregate() is None:
            continue
        protocol = ", ".join(f"{name} {value}" for name, value in result.protocol.items())
        title = f"{directory.path.name}, env step {result.step:,}\n{protocol}"
        print(plot_atari_bars(result.mean_returns, directory.report / "atari_scores.png", title))
    return 0


def _usable(read: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """What ``read`` makes of those that it does not refuse, after a line on stderr for each of the others.

    Raises:
        UserError: it refuses all of them; that of the first.
    """
    answers: list[R] = []
    refusals: list[UserError] = []
    for item in items:
        try:
            answers.append(read(item))
        except UserError as error:
            refusals.append(error)
    if refusals and not answers:
        raise refusals[0]
    for refusal in refusals:
        print(f"machina: left out: {refusal}", file=sys.stderr)
    return answers
