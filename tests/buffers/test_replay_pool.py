"""Shards of a replay in processes, one of which dies: what is saved of them then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from process_shards import ProcessShards
from slow_replay import Slot, layout_of, unroll_of

from machina.buffers.buffer import PartLostError
from machina.buffers.priorities import PriorityRule
from machina.buffers.replay_pool import ReplayPool
from machina.buffers.replay_shard import AGENT, MemorySetup, ShardSetup
from machina.checkpoint.pieces import PieceFolder
from machina.checkpoint.store import CheckpointError
from machina.types import Array

LAYOUT = layout_of(stack=1, window=3)
SETUP = ShardSetup({AGENT: MemorySetup(LAYOUT, 2 * 60, 2, PriorityRule("none", 0.0, 0.0), None)}, None)


class Playing:
    """A pool of one shard, and slots that fill it."""

    def __init__(self) -> None:
        self.shards = ProcessShards()
        self.pool = ReplayPool([SETUP], self.shards, 2)
        self.slots = [Slot(number, 1, np.random.default_rng(number)) for number in range(2)]
        self.serials = [float(number) for number in range(10_000, 0, -1)]

    def put(self, times: int) -> None:
        for _ in range(times):
            starts = [slot.drawn for slot in self.slots]
            played = [slot.play(5, 1, self.serials) for slot in self.slots]
            unroll = unroll_of(played, starts, LAYOUT, np.zeros((2, 4), np.float32))
            self.pool.put(unroll, np.arange(2), 5)
        self.pool.settle()

    def kill_shard(self) -> None:
        process = self.shards.handles[-1].process
        process.kill()
        process.join()

    def parts(self) -> dict[str, dict[str, Array]]:
        return {part.name: part.read() for part in self.pool.parts()}


@pytest.fixture
def playing() -> Iterator[Playing]:
    playing = Playing()
    yield playing
    playing.pool.close()


def write(folder: PieceFolder, playing: Playing) -> dict[str, dict[str, Array]]:
    """What is read of all that was written."""

    def visit_parts(visit: Callable[..., None]) -> None:
        for part in playing.pool.parts():
            visit(part)

    return {piece.part: folder.read(piece, Path("checkpoint")) for piece in folder.write(visit_parts)}


def assert_same(one: dict[str, dict[str, Array]], other: dict[str, dict[str, Array]]) -> None:
    assert one.keys() == other.keys()
    for part, arrays in one.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, other[part][name], err_msg=f"{part} {name}")


def test_what_a_lost_shard_held_is_not_taken_for_what_its_successor_holds(playing: Playing, tmp_path: Path) -> None:
    """Both count as many writes, so the numbers of their chunks are the same."""
    folder = PieceFolder(tmp_path)
    playing.put(4)
    before = write(folder, playing)
    assert_same(before, playing.parts())
    versions = {part.name: part.version for part in playing.pool.parts()}
    playing.kill_shard()
    playing.put(1)
    playing.slots = [Slot(number, 1, np.random.default_rng(10 + number)) for number in range(2)]
    playing.put(4)
    again = {part.name: part.version for part in playing.pool.parts()}
    assert (versions["0-agent-0"], again["0-agent-0"]) == ((0, 5), (1, 5))
    after = write(folder, playing)
    assert_same(after, playing.parts())
    assert not np.array_equal(after["0-agent-0"]["reward/rows"], before["0-agent-0"]["reward/rows"])
    assert len(playing.shards.reports) == 1


def test_a_shard_that_dies_while_it_is_saved_costs_that_checkpoint_alone(playing: Playing, tmp_path: Path) -> None:
    playing.put(4)
    parts = playing.pool.parts()
    parts[0].read()
    playing.kill_shard()
    with pytest.raises(PartLostError, match="replay shard 0 was lost while it was saved"):
        parts[1].read()
    assert playing.pool.lost == playing.pool.count("added") == 40
    playing.put(1)
    playing.kill_shard()
    with pytest.raises(CheckpointError, match=r"replay shard 0 was lost .*; the last good checkpoint is untouched"):
        write(PieceFolder(tmp_path), playing)
    playing.put(2)
    assert playing.pool.count("added") == 70
    assert playing.pool.count("stored") == 20
    assert_same(write(PieceFolder(tmp_path), playing), playing.parts())
