"""``machina status``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field
from tyro.conf import Positional

from machina.cli.options import parse
from machina.config import Config

if TYPE_CHECKING:
    from machina.checkpoint import RunDirectory
    from machina.checkpoint.status import Status

SILENT_S = 30.0
"""A run writes its status every second; one that did not for so long hangs, or waits for a very long update."""


class StatusOptions(Config):
    """Show how a run is doing: nodes, actors, learner ranks, queue, policy lag, throughput, faults.

    For a league also its ratings and its opponent pool.
    """

    run: Positional[Path] = Field(description="Run directory, on the machine where the run was started.")


def run(arguments: list[str]) -> int:
    """Print what a run wrote last of itself."""
    options = parse(StatusOptions, arguments, "machina status")

    from rich.console import Console
    from rich.text import Text

    from machina.checkpoint import RunDirectory
    from machina.league.table import league_tables, read_league
    from machina.report.status import status_tables

    directory = RunDirectory.open(options.run)
    status = directory.status()
    league = read_league(options.run)
    console = Console()
    console.print(Text(f"{options.run}: {_life(directory, status)}"), soft_wrap=True)
    for table in [*status_tables(status), *([] if league is None else league_tables(league))]:
        console.print()
        console.print(table)
    return 0


def _life(directory: RunDirectory, status: Status) -> str:
    """Whether the run lives: that its process holds the run's lock says so, not the time of day."""
    age = status.age_s
    line = f"process {status.pid}, "
    line += "on another machine, or before this one started" if age is None else f"{age:.0f} s ago"
    is_silent = age is not None and age > SILENT_S
    lives = directory.is_held()
    if status.ended is not None:
        return f"{line}; ended: {status.ended}"
    if lives is None:  # the file system has no locks
        if age is None:
            return f"{line}; whether it is alive can't be known here"
        lives = not is_silent
    if not lives:
        return f"{line}; it was killed: machina resume {directory.path}"
    return f"{line}; its process is alive, but reports nothing" if is_silent else line
