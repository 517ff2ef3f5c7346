"""Writing mp4 files."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np

from machina.checkpoint.files import free_space
from machina.errors import RunFailedError, UserError
from machina.types import Array


def write_mp4(path: Path, frames: Iterable[Array], fps: float) -> int:
    """Write an H.264 video; returns the number of frames. ``path`` appears when the video is complete.

    Args:
        path: Ends in ``.mp4``; missing folders are made.
        frames: ``[H, W, 3]`` uint8 each. The first decides the film's size: others lie in its middle on black, made
            smaller where they must be. An odd height or width is padded by repeating the last row or column, because
            the codec halves both for its colours.
        fps: Frames per second.

    Raises:
        UserError: no frame, or a frame of another kind.
        RunFailedError: the encoder stopped, for example because the disk is full.
    """
    import imageio_ffmpeg

    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise UserError(f"video '{path}' has no frames; watch at least one episode")
    _check(first, 0)
    height, width = (side + side % 2 for side in first.shape[:2])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    # Quality 7 (x264: crf 15): the encoder's default smears small sprites such as balls.
    writer = imageio_ffmpeg.write_frames(
        str(partial),
        (width, height),
        fps=fps,
        macro_block_size=2,
        quality=7,
        ffmpeg_log_level="quiet",
        output_params=["-movflags", "+faststart"],
    )
    count = 0
    try:
        writer.send(None)
        for count, frame in enumerate(chain([first], iterator), start=1):
            _check(frame, count - 1)
            writer.send(_padded(_fitted(frame, first.shape), height, width))
        writer.close()
        # The encoder's exit status is not known, so a disk that filled up at the end shows only in the file.
        if _frames_in(partial) != count:
            raise OSError("the encoder did not write every frame")
        partial.replace(path)
    except OSError as error:
        raise RunFailedError(
            f"video '{path}' could not be written: the encoder stopped at frame {count} ({free_space(path.parent)})"
        ) from error
    finally:
        writer.close()
        partial.unlink(missing_ok=True)
    return count


def _frames_in(file: Path) -> int:
    import imageio_ffmpeg

    try:
        frames, _ = imageio_ffmpeg.count_frames_and_secs(str(file))
    except RuntimeError as error:
        raise OSError("the file can't be read back") from error
    return int(frames)


def _check(frame: Array, index: int) -> None:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or frame.size == 0:
        raise UserError(f"video frame {index} is {frame.dtype}{list(frame.shape)}, expected uint8[H, W, 3]")


def _fitted(frame: Array, shape: tuple[int, ...]) -> Array:
    """``frame`` on a canvas of ``shape``, its sides in proportion."""
    if frame.shape == shape:
        return frame
    times = min(1.0, shape[0] / frame.shape[0], shape[1] / frame.shape[1])
    height, width = (max(1, int(side * times)) for side in frame.shape[:2])
    rows, columns = (np.arange(n) * side // n for n, side in zip((height, width), frame.shape, strict=False))
    canvas = np.zeros(shape, np.uint8)
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    canvas[top : top + height, left : left + width] = frame[rows[:, None], columns]
    return canvas


def _padded(frame: Array, height: int, width: int) -> Array:
    margins = ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0))
    return np.ascontiguousarray(np.pad(frame, margins, mode="edge"))
