"""``machina watch``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from tyro.conf import Positional

from machina.cli.options import parse
from machina.config import Config, Seed


class WatchOptions(Config):
    """Film one episode, or one game of several agents, as mp4, in the run's ``videos`` folder."""

    run: Positional[Path] = Field(description="Run directory.")
    game: str | None = Field(default=None, description="Task to play; the run's first when left out.")
    seed: Seed = Field(default=0, description="Seeds environment and action sampling.")
    best: bool = Field(default=False, description="Take the best checkpoint instead of the latest.")
    against: str | None = Field(
        default=None,
        description="Player of all teams but the first, named as for machina match; the policy itself when left out.",
    )
    snapshot: str | None = Field(
        default=None, description="Take this snapshot of the run's league (u000400) instead of the latest checkpoint."
    )
    max_steps: int = Field(default=5000, ge=1, le=1_000_000, description="Longest film, in env steps.")


def run(arguments: list[str]) -> int:
    """Film an episode and say where the file is."""
    options = parse(WatchOptions, arguments, "machina watch")

    from machina.jobs.film import film

    result = film(
        options.run, options.game, options.seed, options.best, options.max_steps, options.against, options.snapshot
    )
    returns = ", ".join(f"{label} {score:g}" for label, score in result.scores) or f"return {result.episode_return:g}"
    print(f"{result.file}: {result.task}, {result.frames} pictures, {returns}{result.remark}")
    return 0
