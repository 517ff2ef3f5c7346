"""Writing files so that a reader sees the old content or the new one, never a part."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from machina.errors import RunFailedError


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and wait until its content is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` in one step; on an ``OSError`` the former file stays."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        write_synced(aside, content)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_or_refuse(file: Path, content: bytes, what: str = "", refusal: type[Exception] = RunFailedError) -> None:
    """Replace ``file`` by ``content`` in one step, and make its folder if there is none.

    Args:
        file: to be written.
        content: of it.
        what: kind of the file, which begins the message.
        refusal: what is raised.

    Raises:
        refusal: the disk is full or refuses, in one line; the former file stays.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)
    except OSError as error:
        room = f" ({free_space(file.parent)})" if is_full(error) else ""
        raise refusal(f"{what} '{file}' could not be written: {error.strerror or error}{room}".lstrip()) from error


def is_full(error: OSError) -> bool:
    """Whether room on the disk would have helped."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def free_space(folder: Path) -> str:
    """Free space of the disk that holds ``folder``, for a message."""
    try:
        free = float(shutil.disk_usage(folder).free)
    except OSError:
        return "free space unknown"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if free < 1024:
            return f"{free:.0f} {unit} free"
        free /= 1024
    return f"{free:.1f} TiB free"


def as_file_name(name: str) -> str:
    """An environment's or a task's name as part of the name of a file or folder."""
    short = name if name.count(",") < 3 else f"{name.count(',') + 1}games"
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in short)
