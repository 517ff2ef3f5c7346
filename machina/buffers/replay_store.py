"""What a replay holds: windows into stored unrolls, drawn by priority.

Each slot writes to one ring, its lane. An unroll's entries 0 to T - 1 are stored with their actions; entry T, the tail,
is stored behind them until entry 0 of the unroll that follows takes its place. Where something else follows (the
environment was replaced), the tail stays and counts as truncated: learners bootstrap from it. Entries before the new
unroll's first then hold its preceding frames and its previous action; no item starts there.

An item is a position at which a window starts. With ``Layout.every_step`` it becomes one as soon as the window's last
entry, or the end of its episode, is there together with what the policy said of it. What is overwritten, oldest first,
is no item any more, a little before the frames that it needs are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from machina.buffers.columns import BlockColumn, Column, PlainColumn, Positions, row_bytes, untouched_zeros
from machina.buffers.entries import ages, entry_values, lead_values
from machina.buffers.lanes import Lanes
from machina.buffers.layout import BLOCK, FLAGS, Layout
from machina.buffers.priorities import Priorities, PriorityRule
from machina.errors import UserError
from machina.types import OBSERVATION, Array, BoolArray, FloatArray, IntArray, Unroll, section, where_slots

DEMONSTRATION = -1
"""The ``policy_version`` of demonstrations: what others did there is learned from."""

CHUNK_BYTES = 64 * 2**20
"""Of what is saved in one file, before frames are compressed: little enough to be written again, and not too many."""

NO_STEP, STEP, OPENING_STEP = 0, 1, 2
"""What a position holds, as ``ReplayStore`` notes it; an opening step is entry 0 of an unroll."""


class Drawn(NamedTuple):
    """k items."""

    unroll: Unroll[Array]
    """``[W + 1, k, ...]``; frames that are stored once as ``[W + frame_stack, k, H, W]``. Behind the end of an episode
    whatever followed, at the newest entry again and again the newest."""
    keys: IntArray
    """``[k]``, for ``ReplayStore.write_back``."""
    masses: npt.NDArray[np.float64]
    """``[k]``: of each item when it was drawn; its chance was mass / total."""


InitialErrors = Callable[[Unroll[Array]], Array]
"""Makes errors ``[k]`` of windows ``[W + 1, k]`` without observations: of what the actors left."""


class ReplayStore:
    """Takes unrolls in, hands windows out. Not safe among threads.

    Games of several agents have no place here: of the rewards only the agent's own is stored.

    Args:
        layout: what is stored.
        capacity: steps that are stored at most, of all lanes; what a break takes comes off it.
        lanes: rings; slot s writes to ring s % lanes, best a ring for each slot.
        rule: see ``PriorityRule``.
        initial_errors: of new items; None gives them the largest priority at present.

    Raises:
        UserError: the capacity is too small for the lanes.
    """

    def __init__(
        self,
        layout: Layout,
        capacity: int,
        lanes: int,
        rule: PriorityRule,
        initial_errors: InitialErrors | None,
    ) -> None:
        length = capacity // lanes
        if layout.compressed:
            length -= length % BLOCK
        if length < layout.shortest_lane:
            raise UserError(
                f"replay capacity={capacity}: {lanes} environments with unrolls of {layout.unroll_length} steps need "
                f"more; use at least {layout.shortest_lane * lanes}"
            )
        self._layout = layout
        self._initial_errors = initial_errors
        self._lanes = Lanes(lanes, length)
        self._kind = np.zeros(lanes * length, np.uint8)
        self._columns: dict[str, Column] = {
            name: (BlockColumn if layout.in_blocks(name) else PlainColumn)(lanes, length, array)
            for name, array in layout.columns().items()
        }
        self._terminated, self._truncated, self._foreign, self._version, self._age = (
            self._plain(name) for name in ("terminated", "truncated", "foreign", "policy_version", "age")
        )
        # Unrolls begin at least T steps apart, so each has a row of its own as long as it is there.
        self._rows_per_lane = 0 if layout.every_step else -(-length // layout.unroll_length)
        core_shapes = () if layout.every_step else layout.core_shapes
        self._cores = [untouched_zeros((lanes * self._rows_per_lane, *shape), np.float32) for shape in core_shapes]
        self._priorities = Priorities(rule, lanes * length)
        rows = max(1, int(CHUNK_BYTES / (lanes * sum(map(row_bytes, layout.columns().values())))))
        self._chunk_length = -(-rows // BLOCK) * BLOCK
        self._chunk_versions = np.zeros(-(-length // self._chunk_length), np.int64)
        self._writes = 0
        self.error_scales: FloatArray = np.ones(layout.spec.num_tasks, np.float32)
        """``[num_tasks]``: initial errors are divided by them; see ``ErrorScales``."""
        self.added = 0
        """Steps put in so far."""
        self.removed = 0
        """Steps that were overwritten or cleared."""
        self.stored = 0
        """Steps that are there: ``added`` is always their number and ``removed`` together."""

    def _plain(self, name: str) -> Array:
        column = self._columns[name]
        assert isinstance(column, PlainColumn)
        return column.rows

    @property
    def total(self) -> float:
        """The sum of all items' masses."""
        return self._priorities.total

    @property
    def num_items(self) -> int:
        """Items that can be drawn."""
        return self._priorities.num_items

    def put(self, unroll: Unroll[Array]) -> None:
        """Store an unroll ``[T' + 1, B, ...]`` of any slots; T' need not be the actors' T.

        Raises:
            UserError: the unroll does not fit into a lane.
        """
        steps = len(unroll.reward) - 1
        self._check_length(steps)
        lanes = unroll.slot % len(self._lanes)
        waiting = np.arange(len(lanes))
        if (lanes[1:] > lanes[:-1]).all():
            self._put(unroll, waiting, lanes)
            return
        while len(waiting):  # once, unless slots share a lane
            _, first = np.unique(lanes[waiting], return_index=True)
            first.sort()
            self._put(unroll, waiting[first], lanes[waiting[first]])
            waiting = np.delete(waiting, first)

    def _check_length(self, steps: int) -> None:
        layout = self._layout
        if layout.needed(steps) > self._lanes.length and steps > layout.unroll_length:
            raise UserError(
                f"unroll of {steps} steps: a lane of the replay holds {self._lanes.length}; "
                f"use shorter unrolls, or a capacity of at least {layout.needed(steps) * len(self._lanes)}"
            )

    def _put(self, unroll: Unroll[Array], slots: IntArray, lanes: IntArray) -> None:
        """Store slots ``slots`` of an unroll, each in another lane."""
        ring, lead, steps = self._lanes, self._layout.lead, len(unroll.reward) - 1
        breaks = ~ring.continued(lanes, unroll.slot[slots], unroll.start[slots])
        self._cut(lanes[breaks & (ring.slot[lanes] >= 0)])
        self._make_room(lanes, ring.head[lanes] + steps + (lead + self._layout.gap) * breaks)
        if breaks.any():
            ring.head[lanes[breaks]] += self._layout.gap
            at = ring.run(lanes[breaks], ring.head[lanes[breaks]], lead)
            self._write(at, lead_values(self._layout, unroll, slots[breaks]))
            ring.head[lanes[breaks]] += lead
            ring.pending[lanes[breaks]] = ring.head[lanes[breaks]]
        at = ring.run(lanes, ring.head[lanes], steps + 1)
        self._write(at, entry_values(self._layout, unroll, slots, ages(unroll, slots, self._age[at.flat[0]], breaks)))
        self._kind[at.flat[:-1]] = STEP
        self._kind[at.flat[0]] = OPENING_STEP
        for stored, core in zip(self._cores, unroll.core_state, strict=False):
            stored[self._core_rows(lanes, at.counts[0])] = core[slots]
        ends = (unroll.terminated[:-1] | unroll.truncated[:-1])[:, slots]
        last = at.counts[0] + steps - 1 - np.argmax(ends[::-1], axis=0)
        ring.last_end[lanes] = np.where(ends.any(axis=0), last, ring.last_end[lanes])
        ring.head[lanes] += steps
        ring.slot[lanes] = unroll.slot[slots]
        ring.next_start[lanes] = np.where(unroll.start[slots] >= 0, unroll.start[slots] + steps, -1)
        self.added += steps * len(slots)
        self.stored += steps * len(slots)
        self._close_windows(lanes, ring.head[lanes])

    def _cut(self, lanes: IntArray) -> None:
        """Nothing follows the tails of ``lanes``: the episodes are truncated there, unless they ended."""
        if len(lanes):
            ring = self._lanes
            tails = ring.run(lanes, ring.head[lanes], 1)
            at = tails.flat[0]
            self._truncated[at] |= ~self._terminated[at]
            self._note_written(tails)
            ring.last_end[lanes] = ring.head[lanes]
            self._close_windows(lanes, ring.head[lanes] + 1, is_cut=True)
            ring.head[lanes] += 1

    def _make_room(self, lanes: IntArray, newest: IntArray) -> None:
        """Remove what entries up to ``newest`` ``[k]`` overwrite, or leave without its frames and previous action."""
        beyond = newest // BLOCK * BLOCK + BLOCK if self._layout.compressed else newest + 1
        # What is compressed is overwritten a block at a time.
        self._remove(lanes, beyond - self._lanes.length + self._layout.lead)

    def _remove(self, lanes: IntArray, oldest: IntArray) -> None:
        """Remove all steps before ``oldest`` ``[k]``."""
        ring = self._lanes
        flat = ring.between(lanes, ring.oldest[lanes], oldest).flat[0]
        steps = int((self._kind[flat] != NO_STEP).sum())
        self._kind[flat] = NO_STEP
        self.removed += steps
        self.stored -= steps
        self._priorities.remove(flat[self._priorities.has(flat)])
        ring.oldest[lanes] = np.maximum(ring.oldest[lanes], oldest)
        # Of an episode that is longer than its lane the beginning is gone before the end is there.
        ring.pending[lanes] = np.maximum(ring.pending[lanes], ring.oldest[lanes])

    def end(self, lanes: IntArray) -> None:
        """Nothing follows what these lanes hold: whatever waits for more becomes an item as it is."""
        self._cut(lanes[self._lanes.slot[lanes] >= 0])
        self._lanes.slot[lanes] = self._lanes.next_start[lanes] = -1

    def clear(self, lane: int) -> None:
        """Remove everything in a lane; what is put there next continues nothing."""
        ring, lanes = self._lanes, np.array([lane])
        self._remove(lanes, ring.head[lanes])
        ring.pending[lane] = ring.head[lane]
        ring.slot[lane] = ring.next_start[lane] = -1

    def _write(self, at: Positions, values: Mapping[str, Array]) -> None:
        for name, column in self._columns.items():
            column.write(at, values[name])
        self._note_written(at)

    def _note_written(self, at: Positions) -> None:
        self._writes += 1
        self._chunk_versions[at.counts % self._lanes.length // self._chunk_length] = self._writes

    def _core_rows(self, lanes: IntArray, counts: IntArray) -> IntArray:
        return lanes * self._rows_per_lane + counts % self._lanes.length // self._layout.unroll_length

    def _close_windows(self, lanes: IntArray, end: IntArray, *, is_cut: bool = False) -> None:
        """Make items of the starts whose windows are complete; entries before ``end`` ``[k]`` are there to the full.

        Where a lane is cut, all windows end there.
        """
        ring, every_step = self._lanes, self._layout.every_step
        closed = ring.pending[lanes]
        if is_cut or not self._layout.whole_episodes:
            closed = np.maximum(closed, end if is_cut else end - self._layout.window)
        if every_step:
            closed = np.maximum(closed, ring.last_end[lanes] + 1)
        at = ring.between(lanes, ring.pending[lanes], closed)
        ring.pending[lanes] = closed
        flat = at.flat[0]
        if every_step:
            learned_from = ~self._foreign[flat] | (self._version[flat] == DEMONSTRATION)
            starts = learned_from & ~(self._terminated[flat] | self._truncated[flat])
        else:
            starts = self._kind[flat] == OPENING_STEP
        self._add_items(at.lanes[starts], at.counts[0, starts], flat[starts])

    def _add_items(self, lanes: IntArray, counts: IntArray, flat: IntArray) -> None:
        if self._initial_errors is None or len(flat) == 0:
            self._priorities.add(flat)
            return
        windows = self._windows(lanes, counts, with_observation=False)
        errors = self._initial_errors(windows) / self.error_scales[windows.task_id]
        known = np.isfinite(errors)
        self._priorities.add(flat[~known])
        self._priorities.set(flat[known], errors[known])

    def draw(self, fractions: npt.NDArray[np.float64]) -> Drawn:
        """k items.

        Args:
            fractions: ``[k]`` in [0, 1), of the total mass, see ``Priorities.draw``.

        Raises:
            ValueError: there is no item.
        """
        flat, masses = self._priorities.draw(fractions)
        lanes, counts = self._lanes.entries_at(flat)
        unroll = self._windows(lanes, counts, with_observation=True)
        return Drawn(unroll, counts * len(self._lanes) + lanes, masses)

    def write_back(self, keys: IntArray, errors: Array) -> int:
        """Note the errors ``[k]`` of drawn items; NaN leaves an item's as it is.

        Returns:
            How many items were overwritten or cleared meanwhile; their errors are dropped.
        """
        counts, lanes = np.divmod(keys, len(self._lanes))
        there = counts >= self._lanes.oldest[lanes]
        self._priorities.set(self._lanes.at(lanes, counts[None]).flat[0, there], errors[there])
        return int((~there).sum())

    def _windows(self, lanes: IntArray, counts: IntArray, *, with_observation: bool) -> Unroll[Array]:
        """Windows ``[W + 1, k]`` that start at entries ``counts`` ``[k]``."""
        ring, layout = self._lanes, self._layout
        at, is_over = self._window_positions(lanes, counts)
        first_at = ring.at(lanes, counts[None])
        age = self._age[first_at.flat[0]]
        before = self._columns["action"].read(ring.at(lanes, counts[None] - 1))[0]
        over_time = {name: self._columns[name].read(at) for name in ("action", "reward", *FLAGS)}
        if not layout.every_step:
            # Behind a cut there is nothing to be learned, nor from another beginning that happens to lie there.
            over_time["foreign"][1:] |= is_over[:-1]
        per_slot = {
            name: self._columns[name].read(first_at)[0].astype(np.int64)
            for name in ("task_id", "slot", "policy_version")
        }
        observation = {key: self._observation(key, at, age) for key in layout.spec.observation if with_observation}
        outputs = {key: self._columns[f"policy_outputs/{key}"].read(at) for key in layout.policy_outputs}
        return Unroll(
            observation=observation,
            team_reward=over_time["reward"],
            enemy_reward=np.zeros_like(over_time["reward"]),
            on_turn=np.ones_like(over_time["foreign"]),
            policy_outputs=outputs,
            core_state=tuple(core[self._core_rows(lanes, counts)] for core in self._cores),
            previous_action=where_slots(age == 0, layout.spec.action.none(len(lanes)), before),
            first=age == 0,
            start=np.zeros(len(lanes), np.int64),
            weight=np.ones(len(lanes), np.float32),
            **over_time,
            **per_slot,
        )

    def _window_positions(self, lanes: IntArray, counts: IntArray) -> tuple[Positions, BoolArray]:
        """The positions ``[W + 1, k]`` of windows, and where the lane was cut, or ends, at an entry or before.

        From there on it is that entry again and again: what lies behind it is of something else, or of nothing.
        """
        ring, offsets = self._lanes, np.arange(self._layout.window + 1)[:, None]
        at = ring.at(lanes, np.minimum(counts + offsets, ring.head[lanes]))
        is_over = np.logical_or.accumulate(self._kind[at.flat] == NO_STEP, axis=0)
        lasts = np.where(is_over.any(axis=0), is_over.argmax(axis=0), self._layout.window)
        return ring.at(lanes, np.minimum(at.counts, counts + lasts)), is_over

    def _observation(self, key: str, at: Positions, age: Array) -> Array:
        """An array of the observation; frames that are stored once with those that precede entry 0, ``age`` old."""
        column, before = self._columns[f"observation/{key}"], self._layout.frames_before
        if key != OBSERVATION or not before:
            return column.read(at)
        lead = at.counts[0] + np.arange(-before, 0)[:, None]
        frames = column.read(self._lanes.at(at.lanes, np.concatenate([lead, at.counts])))
        for back in range(1, before + 1):
            frames[before - back, age < back] = 0
        return frames

    # Saving, in chunks: some positions of every lane

    @property
    def chunk_versions(self) -> IntArray:
        """``[chunks]``: another number after each write; 0 of a chunk that nothing was written to yet."""
        return self._chunk_versions.copy()

    def chunk(self, index: int) -> dict[str, Array]:
        """The entries of a chunk as named arrays; views, so nothing may be put before they are written out."""
        begin, end = self._chunk_bounds(index)
        return {
            f"{name}/{part}": array
            for name, column in self._columns.items()
            for part, array in column.part(begin, end).items()
        }

    def load_chunk(self, index: int, state: Mapping[str, Array]) -> None:
        """Put a chunk back. Raises ``UserError`` where it is of a store that was made otherwise."""
        begin, end = self._chunk_bounds(index)
        for name, column in self._columns.items():
            column.load_part(begin, end, section(state, f"{name}/"))

    def _chunk_bounds(self, index: int) -> tuple[int, int]:
        return index * self._chunk_length, min((index + 1) * self._chunk_length, self._lanes.length)

    def rest(self) -> dict[str, Array]:
        """What is in no chunk, as named arrays: which positions are what, priorities, core states."""
        arrays: dict[str, Array] = {f"cores/{i}": core for i, core in enumerate(self._cores)}
        arrays |= {f"lanes/{name}": array for name, array in self._lanes.state().items()}
        arrays |= {f"priorities/{name}": array for name, array in self._priorities.state().items()}
        for name, column in self._columns.items():
            arrays |= {f"columns/{name}/{part}": array for part, array in column.rest().items()}
        return arrays | {
            "kind": self._kind,
            "steps": np.array([self.added, self.removed]),
            "chunk_versions": self._chunk_versions,
        }

    def load_rest(self, state: Mapping[str, Array]) -> None:
        """Put back what ``rest`` gave. Raises ``UserError`` where it is of a store that was made otherwise."""
        for name, own in self.rest().items():
            theirs = state.get(name)
            if theirs is None or (theirs.dtype, theirs.shape) != (own.dtype, own.shape):
                raise UserError(
                    f"checkpoint: the replay's {name} is {'absent' if theirs is None else theirs.shape}, of this run "
                    f"{own.shape}; continue with the same options of the replay and as many environments"
                )
        self._lanes.load_state(section(state, "lanes/"))
        for name, column in self._columns.items():
            column.load_rest(section(state, f"columns/{name}/"))
        for i, core in enumerate(self._cores):
            core[...] = state[f"cores/{i}"]
        self._priorities.load_state(section(state, "priorities/"))
        self._kind[...] = state["kind"]
        self._chunk_versions[...] = state["chunk_versions"]
        self._writes = int(self._chunk_versions.max())
        self.added, self.removed = map(int, state["steps"])
        self.stored = int((self._kind != NO_STEP).sum())
