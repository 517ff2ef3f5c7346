"""Pictures for play-back, compressed in blocks of neighbours: one at a time LZ4 finds little to save."""

from __future__ import annotations

import math
from collections.abc import Iterator

import lz4.block
import numpy as np

from machina.types import Array

PER_BLOCK = 20
"""Pictures that are compressed together."""


class PictureWriter:
    """Compresses pictures as they come, so that an episode's never lie in memory as they are."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] | None = None
        """``[H, W, 3]`` of every picture; None before the first."""
        self._waiting: list[Array] = []
        self._blocks: list[bytes] = []

    def add(self, picture: Array) -> None:
        """Take in ``[H, W, 3]`` uint8.

        Raises:
            ValueError: it is not of the size of the first.
        """
        if self.shape is None:
            self.shape = picture.shape
        if picture.shape != self.shape:
            raise ValueError(f"a picture is {list(picture.shape)}, the first was {list(self.shape)}")
        self._waiting.append(picture.copy())
        if len(self._waiting) == PER_BLOCK:
            self._close_block()

    def arrays(self) -> dict[str, Array]:
        """All pictures so far: the blocks, one after the other, and where each ends."""
        if self._waiting:
            self._close_block()
        return {
            "pictures/blocks": np.frombuffer(b"".join(self._blocks), np.uint8),
            "pictures/ends": np.cumsum([len(block) for block in self._blocks], dtype=np.int64),
        }

    def _close_block(self) -> None:
        self._blocks.append(lz4.block.compress(np.stack(self._waiting).tobytes(), store_size=False))
        self._waiting = []


def pictures_in(arrays: dict[str, Array], shape: tuple[int, ...], count: int) -> Iterator[Array]:
    """The pictures of ``PictureWriter.arrays``, one block in memory at a time.

    Args:
        arrays: may hold others.
        shape: of a picture.
        count: of pictures.
    """
    start = 0
    for block, end in enumerate(arrays["pictures/ends"].tolist()):
        num_pictures = min(PER_BLOCK, count - block * PER_BLOCK)
        size = num_pictures * math.prod(shape)
        raw = lz4.block.decompress(arrays["pictures/blocks"][start:end].tobytes(), uncompressed_size=size)
        yield from np.frombuffer(raw, np.uint8).reshape(num_pictures, *shape)
        start = end
