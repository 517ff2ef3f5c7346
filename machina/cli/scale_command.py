"""``machina scale``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from tyro.conf import Positional

from machina.cli.options import parse
from machina.config import MOST_ACTORS, Config


class ScaleOptions(Config):
    """Change the number of actors of a running job with ``--place ray``, without stopping it."""

    run: Positional[Path] = Field(description="Run directory, on the machine where the run was started.")
    actors: int = Field(
        ge=1, le=MOST_ACTORS, description="Actors from now on; those without a CPU join when there is one."
    )


def run(arguments: list[str]) -> int:
    """Leave the wish where the run finds it."""
    options = parse(ScaleOptions, arguments, "machina scale")

    from machina.checkpoint import RunDirectory
    from machina.errors import UserError
    from machina.launch.configuration import saved_config

    directory = RunDirectory.open(options.run)
    status, place = directory.status(), saved_config(options.run).runtime.place
    if place != "ray":
        raise UserError(
            f"run '{options.run}' has a fixed number of actors in place {place}; only place ray can be scaled"
        )
    if status.ended is not None:
        raise UserError(f"run '{options.run}' has ended: {status.ended}; machina resume {options.run}, then scale it")
    before = status.actors
    directory.request_actors(options.actors)
    print(f"{options.run}: {options.actors} actors requested, it has {len(before)}; see machina status {options.run}")
    return 0
