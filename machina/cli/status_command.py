"""``machina status``."""

from __future__ import annotations

import time
from pathlib import Path

from pydantic import Field
from tyro.conf import Positional

from machina.cli.options import parse
from machina.config import Config

SILENT_S = 30.0
"""A run writes its status every second; one that did not for so long was killed or hangs."""


class StatusOptions(Config):
    """Say how a run does: nodes, actors, learner ranks, queue, policy lag, throughput, faults.

    Of a league also its ratings and its opponent pool.
    """

    run: Positional[Path] = Field(description="Run directory, on the machine where the run was started.")


def run(arguments: list[str]) -> int:
    """Print what a run wrote last of itself."""
    options = parse(StatusOptions, arguments, "machina status")

    from rich.console import Console
    from rich.text import Text

    from machina.checkpoint import RunDirectory
    from machina.report.league import league_tables, read_league
    from machina.report.status import status_tables

    status = RunDirectory.open(options.run).status()
    league = read_league(options.run)
    age = time.time() - status.time
    console = Console()
    heading = f"{options.run}: process {status.pid}, {age:.0f} s ago"
    if status.ended is not None:
        heading += f"; it has ended: {status.ended}"
    elif age > SILENT_S:
        heading += f"; it was killed or hangs: machina resume {options.run}"
    console.print(Text(heading), soft_wrap=True)
    for table in [*status_tables(status), *([] if league is None else league_tables(league))]:
        console.print()
        console.print(table)
    return 0
