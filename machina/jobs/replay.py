"""Playing recorded episodes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from machina.demonstrations import RecordedEpisode, Who, load_set
from machina.errors import UserError
from machina.play.recording import StoppedError
from machina.report.video import write_mp4
from machina.types import OBSERVATION, Array


class Replayed(NamedTuple):
    """What was shown or written."""

    pictures: int
    stopped: bool
    """The window was closed before the end."""


def replay(folder: Path, number: int, mp4: Path | None, window_scale: float | None) -> Replayed:
    """Play an episode back, in a window or into a film.

    Shown are the recorded pictures, or without any the image frames that the policy would have seen.

    Args:
        folder: of the set.
        number: of the episode.
        mp4: file to write; None: a window.
        window_scale: see ``machina.play.window.Window``.

    Raises:
        UserError: no such set or episode, nothing in it can be shown, or there is no display.
        RunFailedError: the film can't be written.
    """
    if mp4 is not None and mp4.suffix.lower() != ".mp4":
        raise UserError(f"mp4='{mp4}': the file's name must end in .mp4")
    episode = load_set(folder).episode(number)
    pictures = _pictures(episode)
    if mp4 is not None:
        return Replayed(write_mp4(mp4, pictures, episode.header.pictures_per_s), False)
    try:
        return Replayed(_show(episode, pictures, window_scale), False)
    except (StoppedError, KeyboardInterrupt):
        return Replayed(0, True)


def _pictures(episode: RecordedEpisode) -> Iterator[Array]:
    if episode.has_pictures:
        return episode.pictures()
    if episode.header.spec.stores_frames_once:
        return _frames(episode)
    raise UserError(
        f"{episode.path.name} has no pictures, and its observations are none; record it without --no-pictures"
    )


def _frames(episode: RecordedEpisode) -> Iterator[Array]:
    """The newest frame of every stack, grey."""
    frames = episode.arrays()[f"observation/{OBSERVATION}"][episode.header.spec.frame_stack - 1 :]
    for frame in frames:
        yield np.repeat(frame[:, :, None], 3, axis=2)


def _show(episode: RecordedEpisode, pictures: Iterator[Array], scale: float | None) -> int:
    from machina.play.window import Pace, Window

    arrays, header = episode.arrays(), episode.header
    returns = np.cumsum(arrays["reward"], dtype=np.float64)
    who = [Who(number).name.lower() for number in arrays["who"].tolist()]
    window: Window | None = None
    pace: Pace | None = None
    count = 0
    try:
        for count, picture in enumerate(pictures, start=1):
            if window is None or pace is None:
                window = Window(f"machina replay {header.spec.name}", picture, scale)
                pace = Pace(window, header.pictures_per_s)
            step = count - 1
            acts = who[step] if step < header.length else "end"
            pace.wait(picture, f"step {step} of {header.length}  return {returns[step]:g}  {acts}")
    finally:
        if window is not None:
            window.close()
    return count
