"""``machina resume``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from tyro.conf import Positional

from machina.cli.options import parse
from machina.config import MOST_FRAMES, MOST_MINUTES, Config


class ResumeOptions(Config):
    """Continue a run from its last good checkpoint; counters, schedules and random streams continue."""

    run: Positional[Path] = Field(description="Run directory.")
    minutes: float | None = Field(
        default=None,
        gt=0,
        le=MOST_MINUTES,
        description="Stop after this wall time, now and in later sessions; None: as before.",
    )
    total_frames: int | None = Field(
        default=None,
        ge=1,
        le=MOST_FRAMES,
        description="Length of the run and of its schedules from now on, in frames; None: as before.",
    )


def run(arguments: list[str]) -> int:
    """Continue a run."""
    options = parse(ResumeOptions, arguments, "machina resume")

    from machina.jobs.resume import resume

    resume(options.run, options.minutes, options.total_frames)
    return 0
