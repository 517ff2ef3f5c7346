"""A shard of a replay: its memories, what is put into them and drawn from them.

Lives behind a ``machina.handles.Handle``, in the trainer's process or in one of a cluster. Every answer says how much
the shard holds, so that whoever draws knows it without asking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from machina.buffers.best_episodes import BestEpisodes
from machina.buffers.layout import Layout
from machina.buffers.priorities import PriorityRule
from machina.buffers.replay_store import ReplayStore
from machina.buffers.unrolls import slice_slots
from machina.errors import UserError
from machina.types import Array, FloatArray, IntArray, Unroll, section

AGENT = "agent"
"""The memory of what the run's actors collect."""

DEMONSTRATIONS = "demonstrations"
"""The memory of recorded episodes, which is never overwritten."""

REST = "rest"
"""The part of a shard's content that is written with every checkpoint."""

EPISODES = "episodes"
"""The memory of the agent's own best episodes."""

InitialErrors = Callable[[Unroll[Array]], Array]
"""From windows without observations to the errors ``[k]`` that the actors' numbers make of them."""


class MemorySetup(NamedTuple):
    """What one memory of a shard is built from; travels pickled."""

    layout: Layout
    capacity: int
    """In env steps."""
    lanes: int
    """Streams of consecutive entries: of actors' slots, or of whole episodes."""
    rule: PriorityRule
    initial_errors: InitialErrors | None
    """None: what is new has the largest priority at present."""


class ShardSetup(NamedTuple):
    """What a shard is built from; travels pickled."""

    memories: Mapping[str, MemorySetup]
    """By name; ``AGENT`` is always there."""
    demonstrations: Callable[[], Iterator[Unroll[Array]]] | None
    """Reads what is put into ``DEMONSTRATIONS`` at the start."""
    longest_episode: int = 0
    """Env steps of the longest one that ``EPISODES`` keeps, where there is that memory."""


class MemoryReport(NamedTuple):
    """How much a memory holds."""

    mass: float
    """Sum of its items' priorities."""
    items: int
    added: int
    """Env steps since the shard's start; the sum of the next two."""
    stored: int
    removed: int
    stale: int
    """Priorities that came back for items that had been overwritten."""


NOTHING = MemoryReport(0.0, 0, 0, 0, 0, 0)
"""Of a memory of a shard that has not answered yet."""

ShardReport = Mapping[str, MemoryReport]
"""By the memories' names."""


class Keys(NamedTuple):
    """Which items were drawn; ``[k]`` each."""

    keys: IntArray
    masses: npt.NDArray[np.float64]
    policy_versions: IntArray
    task_ids: IntArray


class ReplayShard:
    """Memories that are put into, drawn from and written back to by name.

    Args:
        setup: of the shard.
    """

    def __init__(self, setup: ShardSetup) -> None:
        self._stores = {
            name: ReplayStore(memory.layout, memory.capacity, memory.lanes, memory.rule, memory.initial_errors)
            for name, memory in setup.memories.items()
        }
        self._stale = dict.fromkeys(self._stores, 0)
        self._best: BestEpisodes | None = None
        if EPISODES in self._stores:
            episodes = setup.memories[EPISODES]
            burn_in = episodes.layout.burn_in
            self._best = BestEpisodes(self._stores[EPISODES], burn_in, episodes.lanes, setup.longest_episode)
        if setup.demonstrations is not None:
            for unroll in setup.demonstrations():
                self._stores[DEMONSTRATIONS].put(unroll)
            self._stores[DEMONSTRATIONS].end(np.array([0]))

    def report(self) -> ShardReport:
        """How much the memories hold."""
        return {
            name: MemoryReport(
                store.total, store.num_items, store.added, store.stored, store.removed, self._stale[name]
            )
            for name, store in self._stores.items()
        }

    def put(self, unroll: Unroll[Array], start: int, stop: int) -> ShardReport:
        """Take in slots ``start`` to ``stop`` of an actor's unroll; the arrays may change afterwards."""
        part = slice_slots(unroll, start, stop)
        self._stores[AGENT].put(part)
        if self._best is not None:
            self._best.put(part)
        return self.report()

    def draw(self, memory: str, fractions: npt.NDArray[np.float64]) -> tuple[tuple[Keys, ShardReport], Unroll[Array]]:
        """Items at these fractions of the memory's mass.

        Args:
            memory: its name.
            fractions: ``[k]`` in [0, 1).
        """
        drawn = self._stores[memory].draw(fractions)
        unroll = drawn.unroll
        return (Keys(drawn.keys, drawn.masses, unroll.policy_version, unroll.task_id), self.report()), unroll

    def write_back(self, memory: str, keys: IntArray, errors: FloatArray, scales: FloatArray) -> ShardReport:
        """Give items, as they were drawn, their new errors ``[k]``; NaN leaves them as they are.

        Args:
            memory: its name.
            keys: ``[k]``.
            errors: ``[k]``, divided already by the scale of their task.
            scales: ``[num_tasks]``, for new items.
        """
        for store in self._stores.values():
            store.error_scales = scales
        self._stale[memory] += self._stores[memory].write_back(keys, errors)
        return self.report()

    # Saving: in parts with names, each with a version that changes when it does

    def part_versions(self) -> dict[str, int]:
        """Of the parts that hold anything; what is small and always changes is ``REST``, of version 0."""
        versions = {REST: 0}
        for name, store in self._stores.items():
            versions |= {
                f"{name}-{index}": version for index, version in enumerate(store.chunk_versions.tolist()) if version
            }
        return versions

    def part(self, name: str) -> dict[str, Array]:
        """Named arrays, views as a rule: to be written out before anything is put."""
        if name != REST:
            store, index = self._chunk(name)
            return store.chunk(index)
        rest = {
            f"{memory}/{key}": array for memory, store in self._stores.items() for key, array in store.rest().items()
        }
        rest["stale"] = np.array(list(self._stale.values()), np.int64)
        rest["scales"] = self._stores[AGENT].error_scales
        if self._best is not None:
            rest |= {f"best/{key}": array for key, array in self._best.state().items()}
        return rest

    def load_part(self, name: str, arrays: Mapping[str, Array]) -> None:
        """Put back what ``part`` gave, ``REST`` first.

        Raises:
            UserError: it is of a replay with other options.
        """
        if name != REST:
            store, index = self._chunk(name)
            store.load_chunk(index, arrays)
            return
        saved = {key.partition("/")[0] for key in arrays} - {"stale", "scales", "best"}
        if saved != self._stores.keys():
            raise UserError(
                f"checkpoint: the replay has the memories {', '.join(sorted(saved))}, this run "
                f"{', '.join(sorted(self._stores))}; continue with the same --episode-memory and --demos"
            )
        for memory, store in self._stores.items():
            store.load_rest(section(arrays, f"{memory}/"))
            store.error_scales = arrays["scales"].copy()
        self._stale = dict(zip(self._stores, arrays["stale"].tolist(), strict=True))
        if self._best is not None:
            self._best.load_state(section(arrays, "best/"))

    def _chunk(self, name: str) -> tuple[ReplayStore, int]:
        memory, _, index = name.rpartition("-")
        return self._stores[memory], int(index)
