"""Videos are read back with the encoder's own reader."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from machina.errors import RunFailedError, UserError
from machina.report.video import write_mp4
from machina.types import Array


def moving_square(count: int, height: int, width: int) -> Iterator[Array]:
    for index in range(count):
        frame = np.full((height, width, 3), 40, np.uint8)
        frame[10:20, index : index + 10] = (255, 0, 0)
        yield frame


@pytest.mark.parametrize(("height", "width", "fps"), [(210, 160, 60.0), (85, 83, 15.0), (64, 48, 29.97)])
def test_frames_and_size_come_back(tmp_path: Path, height: int, width: int, fps: float) -> None:
    path = tmp_path / "videos" / "pong.mp4"
    assert write_mp4(path, moving_square(30, height, width), fps) == 30
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    expected = (width + width % 2, height + height % 2)
    assert meta["size"] == expected
    assert meta["fps"] == pytest.approx(fps, abs=0.01)
    frames = [np.frombuffer(frame, np.uint8).reshape(expected[1], expected[0], 3) for frame in reader]
    assert len(frames) == 30
    for index in (0, 29):
        middle = frames[index][15, index + 5].astype(int)
        assert middle[0] > 200
        assert middle[1:].max() < 60
    assert [file.name for file in path.parent.iterdir()] == ["pong.mp4"]


def test_frames_that_cannot_be_a_video_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    with pytest.raises(UserError, match="has no frames"):
        write_mp4(path, [], 30)
    with pytest.raises(UserError, match=r"frame 0 is float64\[4, 4, 3\], expected uint8"):
        write_mp4(path, [np.zeros((4, 4, 3))], 30)
    with pytest.raises(UserError, match=r"frame 1 is uint8\[64, 64\], expected uint8\[H, W, 3\]"):
        write_mp4(path, [np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)], 30)
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
    import resource, sys
    from pathlib import Path
    import numpy as np
    from machina.errors import RunFailedError
    from machina.report.video import write_mp4

    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    noise = np.random.default_rng(0)
    try:
        write_mp4(Path(sys.argv[1]), (noise.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(60)), 30)
    except RunFailedError as error:
        print(error)
"""


def test_a_full_disk_leaves_the_former_video(tmp_path: Path) -> None:
    path = tmp_path / "pong.mp4"
    write_mp4(path, moving_square(3, 64, 64), 30)
    former = path.read_bytes()
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"video '{path}' could not be written" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert path.read_bytes() == former
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_source_of_frames_leaves_nothing(tmp_path: Path) -> None:
    def frames() -> Iterator[Array]:
        yield np.zeros((64, 64, 3), np.uint8)
        raise RunFailedError("the environment raised")

    with pytest.raises(RunFailedError, match="the environment raised"):
        write_mp4(tmp_path / "x.mp4", frames(), 30)
    assert list(tmp_path.iterdir()) == []
