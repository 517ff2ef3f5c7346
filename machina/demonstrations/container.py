"""A file of named arrays behind a JSON header: lossless, checksummed, aligned for memory maps, never pickle.

All numbers are little-endian. The prefix has 64 bytes::

    0   8 bytes   b"MACHINA" and 0x1A
    8   uint32    version of the format, 1
    12  uint32    n, bytes of the header
    16  32 bytes  sha256 of the header
    48  16 bytes  zero

The header, UTF-8 JSON in which infinite numbers are ``Infinity`` and ``-Infinity``, is an object of ``content`` and
``arrays``; the latter lists each array's name, dtype, shape, offset and sha256. Arrays are C-contiguous. They lie one
after the other, each at the next multiple of 64; offsets count from the first of these after the header. What lies
between is zero, and the file ends with the last array.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from machina.config import one_line
from machina.types import Array

MAGIC = b"MACHINA\x1a"
VERSION = 1
ALIGNMENT = 64
MOST_HEADER_BYTES = 2**26
"""More are no header of ours; a damaged length must not make us read a disk."""

_PREFIX = struct.Struct("<8sII32s16x")
_NUMBERS = "biuf"
"""Kinds of dtypes that arrays may have: truth values and real numbers."""


class ContainerError(Exception):
    """A file that is none of ours, or is damaged; the message says how, without the file's name."""


class StoredArray(BaseModel):
    """Where one array lies."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int = Field(ge=0, multiple_of=ALIGNMENT, description="In bytes, from the first array.")
    sha256: str

    @property
    def num_bytes(self) -> int:
        """Raises ContainerError when the dtype is none of numbers, or a side is negative."""
        try:
            dtype = np.dtype(self.dtype)
        except TypeError as error:
            raise ContainerError(f"array {self.name!r} has the unknown dtype {self.dtype!r}") from error
        if dtype.kind not in _NUMBERS or min(self.shape, default=0) < 0:
            raise ContainerError(f"array {self.name!r} can't be {self.dtype}{list(self.shape)}")
        return dtype.itemsize * math.prod(self.shape)


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    content: dict[str, Any]
    arrays: tuple[StoredArray, ...]


class Container(NamedTuple):
    """A file's header."""

    content: dict[str, Any]
    arrays: dict[str, StoredArray]
    start: int
    """Byte at which the first array lies."""


def packed(content: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    """A whole file.

    Args:
        content: what the header says besides the arrays; only what JSON knows.
        arrays: of truth values or real numbers, in any memory layout.

    Raises:
        ValueError: an array holds something else.
    """
    rows: list[dict[str, Any]] = []
    parts: list[bytes] = []
    offset = 0
    for name, array in arrays.items():
        if array.dtype.kind not in _NUMBERS:
            raise ValueError(f"array {name!r} is of {array.dtype}, only truth values and real numbers are stored")
        # tobytes writes the elements in C order, whatever the layout in memory.
        raw = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        digest = hashlib.sha256(raw).hexdigest()
        rows.append(
            {"name": name, "dtype": array.dtype.name, "shape": list(array.shape), "offset": offset, "sha256": digest}
        )
        parts += [b"\0" * (offset - sum(map(len, parts))), raw]
        offset = _aligned(offset + len(raw))
    header = json.dumps({"content": content, "arrays": rows}).encode()
    prefix = _PREFIX.pack(MAGIC, VERSION, len(header), hashlib.sha256(header).digest())
    return b"".join([prefix, header, b"\0" * (_aligned(len(header)) - len(header)), *parts])


def read_header(path: Path) -> Container:
    """What a file holds; its header and its length are checked.

    Raises:
        ContainerError: no file of ours, another version, or damaged.
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        prefix = file.read(_PREFIX.size)
        if not prefix.startswith(MAGIC):
            raise ContainerError("no recorded episode of Machina")
        if len(prefix) < _PREFIX.size:
            raise ContainerError("cut off within its first 64 bytes")
        _, version, length, digest = _PREFIX.unpack(prefix)
        if version != VERSION:
            raise ContainerError(f"written in version {version} of the format, this Machina reads version {VERSION}")
        raw = file.read(length) if length <= MOST_HEADER_BYTES else b""
    if hashlib.sha256(raw).digest() != digest:
        raise ContainerError("header damaged: its checksum is wrong")
    try:
        header = _Header.model_validate(json.loads(raw))
    except ValidationError as error:
        raise ContainerError(f"header: {one_line(error)}") from error
    except (ValueError, RecursionError) as error:
        raise ContainerError("header is not JSON") from error
    start = _PREFIX.size + _aligned(length)
    end = start + max((each.offset + each.num_bytes for each in header.arrays), default=0)
    if (size := path.stat().st_size) != end:
        raise ContainerError(f"has {size:,} bytes instead of {end:,}; it was cut off or added to")
    return Container(header.content, {each.name: each for each in header.arrays}, start)


def verify(path: Path, container: Container) -> None:
    """Compare every array with its checksum; reads the file once, 1 MiB at a time, without mapping it.

    Raises:
        ContainerError: an array differs; names it.
        OSError: the file can't be read.
    """
    block = 2**20
    with path.open("rb") as file:
        for array in container.arrays.values():
            digest = hashlib.sha256()
            file.seek(container.start + array.offset)
            left = array.num_bytes
            while left and (part := file.read(min(block, left))):
                digest.update(part)
                left -= len(part)
            if digest.hexdigest() != array.sha256:
                raise ContainerError(f"array {array.name!r} is damaged: its checksum is wrong")


def mapped(path: Path, container: Container) -> dict[str, Array]:
    """The arrays as read-only views of one memory map, which lives as long as any of them."""
    memory = np.memmap(path, np.uint8, mode="r") if container.arrays else np.empty(0, np.uint8)
    return {
        name: np.ndarray(
            array.shape, np.dtype(array.dtype).newbyteorder("<"), memory, offset=container.start + array.offset
        )
        for name, array in container.arrays.items()
    }


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT
