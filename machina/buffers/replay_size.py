"""The memory that a replay takes when it is full, for the forecast when a run starts."""

from __future__ import annotations

import math

from machina.buffers.columns import row_bytes
from machina.buffers.layout import Layout
from machina.buffers.segment_tree import FANOUT

COMPRESSED_SHARE = 0.25
"""A forecast takes the most: of 24 Atari games at random play LZ4 leaves 1.4 to 9 %, of Yars' Revenge 25 %."""

NUMBER = 8
"""Bytes of a mass in a tree."""


def bytes_per_step(layout: Layout) -> float:
    """Bytes of a stored step, its share of the priorities' trees included.

    Of compressed frames it is an upper estimate. Priorities by rank take 16 bytes more.
    """
    columns = sum(
        row_bytes(array) * (COMPRESSED_SHARE if layout.in_blocks(name) else 1)
        for name, array in layout.columns().items()
    )
    core = 0 if layout.every_step else 4 * sum(map(math.prod, layout.core_shapes)) / layout.unroll_length
    trees = 2 * NUMBER * FANOUT / (FANOUT - 1)
    kind, is_item = 1, 1
    return columns + core + trees + kind + is_item


def store_bytes(layout: Layout, capacity: int) -> int:
    """Bytes of a full ``ReplayStore`` for ``capacity`` steps; what draws take for a moment comes on top."""
    return math.ceil(bytes_per_step(layout) * capacity)
