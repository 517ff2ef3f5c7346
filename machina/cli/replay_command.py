"""``machina replay``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from tyro.conf import Positional

from machina.cli.options import parse
from machina.config import MOST_EPISODES, Config


class ReplayOptions(Config):
    """Play a recorded episode back. In the window P pauses, N shows one step, + and - change the speed."""

    demos: Positional[Path] = Field(description="Folder of recorded episodes.")
    episode: int = Field(
        default=0, ge=0, le=MOST_EPISODES, description="Number of the episode, see machina demos info."
    )
    mp4: Path | None = Field(default=None, description="Write this film instead of opening a window.")
    window_scale: float | None = Field(
        default=None, ge=0.1, le=50, description="Size of the picture in the window; None: as fits."
    )


def run(arguments: list[str]) -> int:
    """Show the episode, or say where the film is."""
    options = parse(ReplayOptions, arguments, "machina replay")

    from machina.jobs.replay import replay

    done = replay(options.demos, options.episode, options.mp4, options.window_scale)
    if options.mp4 is not None:
        print(f"{options.mp4}: {done.pictures} pictures")
    return 0
