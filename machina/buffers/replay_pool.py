"""The shards of a replay as one: what is put is spread over them, and they are drawn from as one tree would be."""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from machina.buffers.buffer import PartLostError, ReplayPart, Shards
from machina.buffers.replay_shard import AGENT, NOTHING, REST, Keys, MemoryReport, ReplayShard, ShardReport, ShardSetup
from machina.errors import RunFailedError, UserError
from machina.handles import Handle, HandleFaultError
from machina.types import Array, FloatArray, IntArray

ANSWER_TIMEOUT_S = 120.0
"""How long a shard may take to answer; one of a cluster may have to start, and to fetch unrolls from other nodes."""

CALLS_AHEAD = 64
"""Calls that a shard may have before its answers are waited for."""


class Selection(NamedTuple):
    """Items of one shard."""

    unroll: Any
    """``Unroll`` of arrays; with ``--place ray`` a reference to one."""
    keys: IntArray
    """``[k]``, unique among all shards."""
    masses: npt.NDArray[np.float64]
    policy_versions: IntArray
    task_ids: IntArray


class ReplayPool:
    """Puts, draws and writes back. Not safe among threads: its owner locks.

    Args:
        setups: of the shards.
        shards: where they live.
        num_slots: of the run, which are shared out among the shards.
    """

    def __init__(self, setups: Sequence[ShardSetup], shards: Shards, num_slots: int) -> None:
        self._setups = setups
        self._shards = shards
        self._num_slots = num_slots
        self._names = [f"replay shard {index}" for index in range(len(setups))]
        self._replaced = [0] * len(setups)
        """How often each shard was: its successor counts its writes anew, and holds something else."""
        self._reports: list[ShardReport] = [{} for _ in setups]
        self._awaited: list[deque[int]] = [deque() for _ in setups]
        """Of each shard, the env steps that each unanswered call puts; 0 of other calls."""
        self._handles = [self._started(index) for index in range(len(setups))]
        self.lost = 0
        """Env steps that went down with shards."""
        self._before: dict[str, int] = {"added": 0, "removed": 0, "stale": 0}
        """Counts of shards that are gone."""

    def _started(self, index: int) -> Handle:
        """A new shard, which is asked at once what it holds: demonstrations are there from the start."""
        setup = self._setups[index]
        handle = self._shards.start(lambda: ReplayShard(setup), self._names[index])
        self._awaited[index].append(0)
        handle.call("report")
        return handle

    def shard_of(self, slot: int) -> int:
        """Neighbours share a shard; slots of actors that join later are shared out alike."""
        return slot % self._num_slots * len(self._handles) // self._num_slots

    def put(self, unroll: Any, slots: IntArray, steps: int) -> None:
        """Take in an unroll, which is copied, or a reference to one, which is followed later.

        Args:
            unroll: of consecutive slots.
            slots: ``[B]``, their indices in the whole run.
            steps: T, of each.
        """
        of_slots = np.array([self.shard_of(int(slot)) for slot in slots])
        bounds = [0, *(np.flatnonzero(np.diff(of_slots)) + 1).tolist(), len(slots)]
        for start, stop in itertools.pairwise(bounds):
            self._call(int(of_slots[start]), (stop - start) * steps, "put", unroll, start, stop)

    def reports(self, memory: str) -> list[MemoryReport]:
        """What each shard said last of a memory."""
        return [report.get(memory, NOTHING) for report in self._reports]

    def draw(self, memory: str, fractions: npt.NDArray[np.float64]) -> list[Selection]:
        """Items at these fractions ``[k]`` in [0, 1) of the mass of all shards together, shard by shard.

        A shard that is lost meanwhile gives nothing.
        """
        self.settle()
        masses = np.array([report.mass for report in self.reports(memory)])
        ends = np.cumsum(masses)
        points = fractions * ends[-1]
        # A point that rounding moved onto the very end belongs to the last shard that holds anything.
        of_points = np.minimum(np.searchsorted(ends, points, side="right"), np.flatnonzero(masses)[-1])
        asked = []
        for index in np.unique(of_points).tolist():
            own = (points[of_points == index] - (ends[index] - masses[index])) / masses[index]
            self._awaited[index].append(0)
            self._handles[index].call("draw", memory, np.clip(own, 0.0, np.nextafter(1.0, 0.0)))
            asked.append(index)
        return [selection for index in asked if (selection := self._selection(index)) is not None]

    def _selection(self, index: int) -> Selection | None:
        answer = self._answer(index)
        if answer is None:
            return None
        (drawn, report), unroll = answer
        self._note(index, report)
        keys: Keys = drawn
        return Selection(unroll, *keys._replace(keys=keys.keys * len(self._handles) + index))

    def write_back(self, memory: str, keys: IntArray, errors: FloatArray, scales: FloatArray) -> None:
        """Give the items of ``keys`` ``[k]`` their new errors; NaN leaves an item as it is.

        Args:
            memory: its name.
            keys: ``[k]``.
            errors: ``[k]``, divided by the scale of their task.
            scales: ``[num_tasks]``, for new items.
        """
        own_keys, of_keys = np.divmod(keys, len(self._handles))
        for index in np.unique(of_keys).tolist():
            here = of_keys == index
            self._call(index, 0, "write_back", memory, own_keys[here], errors[here], scales)

    def count(self, name: str) -> int:
        """Of the agent's memory on all shards, those that are gone included: added, stored, removed or stale."""
        return self._before.get(name, 0) + sum(int(getattr(report, name)) for report in self.reports(AGENT))

    def settle(self) -> None:
        """Wait for all answers."""
        for index in range(len(self._handles)):
            while self._awaited[index]:
                self._take(index)

    # Calls and answers

    def _call(self, index: int, steps: int, method: str, *arguments: Any) -> None:
        """Make a call that answers with a report, and take the reports that are there."""
        self._awaited[index].append(steps)
        self._handles[index].call(method, *arguments)
        while self._awaited[index] and (
            len(self._awaited[index]) > CALLS_AHEAD or self._handles[index].has_answered(0.0)
        ):
            self._take(index)

    def _take(self, index: int) -> None:
        report = self._answer(index)
        if report is not None:
            self._note(index, report)

    def _note(self, index: int, report: ShardReport) -> None:
        """What a shard says of itself with the answer to its oldest call.

        What was put and is not there was lost with the node of the actor that had it.
        """
        before = self._reports[index].get(AGENT, NOTHING)
        self.lost += self._awaited[index].popleft() - (report[AGENT].added - before.added)
        self._reports[index] = report

    def _answer(self, index: int) -> Any:
        """The oldest answer; None when the shard is lost, and another one in its place."""
        handle = self._handles[index]
        try:
            if not handle.has_answered(ANSWER_TIMEOUT_S):
                raise HandleFaultError(f"{handle.name}: no answer for {ANSWER_TIMEOUT_S:g} s", died=True)
            answer = handle.answer()
        except HandleFaultError as fault:
            self._replace(index, fault)
            return None
        return answer

    def _replace(self, index: int, fault: HandleFaultError) -> None:
        """Start an empty shard in place of one that is lost; what it held, and what was on its way, is lost."""
        held = self._reports[index].get(AGENT, NOTHING)
        on_the_way = sum(self._awaited[index])
        self.lost += held.stored + on_the_way
        self._before["added"] += held.added + on_the_way
        self._before["removed"] += held.removed
        self._before["stale"] += held.stale
        self._awaited[index].clear()
        self._replaced[index] += 1
        self._reports[index] = {}
        self._handles[index].kill()
        self._shards.report(f"{fault}; an empty one takes its place, {held.stored + on_the_way:,} env steps are lost")
        try:
            self._handles[index] = self._started(index)
        except HandleFaultError as again:
            raise RunFailedError(f"{fault}; its replacement failed as well: {again}") from again

    # Saving

    def parts(self) -> list[ReplayPart]:
        """Everything that the shards hold; an owner that locks must keep the lock until the parts are read.

        Raises:
            PartLostError: a shard is lost.
        """
        self.settle()
        parts = []
        for index in range(len(self._handles)):
            versions: dict[str, int] = self._read(index, "part_versions")
            for name, version in versions.items():
                known = None if name == REST else (self._replaced[index], version)
                parts.append(ReplayPart(f"{index}-{name}", known, functools.partial(self._read, index, "part", name)))
        return parts

    def _read(self, index: int, method: str, *arguments: Any) -> Any:
        """What a method of a shard comes to; nothing else may be awaited of it.

        Raises:
            PartLostError: the shard is lost; an empty one took its place.
        """
        name = self._handles[index].name
        self._awaited[index].append(0)
        self._handles[index].call(method, *arguments)
        answer = self._answer(index)
        if answer is None:
            raise PartLostError(f"{name} was lost while it was saved")
        self._awaited[index].popleft()
        return answer

    def load_parts(self, parts: Mapping[str, Callable[[], dict[str, Array]]]) -> None:
        """Put everything back, as ``parts`` named it.

        Raises:
            UserError: it is of another number of shards, or of a replay with other options.
        """
        self.settle()
        rests = [f"{index}-{REST}" for index in range(len(self._handles))]
        found = sum(name.endswith(f"-{REST}") for name in parts)
        if found != len(rests) or any(name not in parts for name in rests):
            raise UserError(
                f"checkpoint: its replay has {found} shards, this run {len(rests)}; continue with as many "
                "(--replay-shards)"
            )
        for name in [*rests, *(name for name in parts if name not in rests)]:
            shard, _, part = name.partition("-")
            self._ask(int(shard), "load_part", part, parts[name]())
        self._reports = [self._ask(index, "report") for index in range(len(self._handles))]

    def _ask(self, index: int, method: str, *arguments: Any) -> Any:
        """What a method of a shard comes to; nothing else may be awaited of it.

        Raises:
            RunFailedError: the shard is lost, before anything was learned.
        """
        handle = self._handles[index]
        handle.call(method, *arguments)
        try:
            if not handle.has_answered(ANSWER_TIMEOUT_S):
                raise RunFailedError(f"{handle.name}: no answer for {ANSWER_TIMEOUT_S:g} s")
            return handle.answer()
        except HandleFaultError as fault:
            raise RunFailedError(f"{fault}, while the replay was loaded") from fault

    @property
    def gone(self) -> list[int]:
        """Lost; added, removed and stale of shards that are gone."""
        return [self.lost, *self._before.values()]

    @gone.setter
    def gone(self, numbers: Sequence[int]) -> None:
        self.lost = numbers[0]
        self._before = dict(zip(self._before, numbers[1:], strict=True))

    def close(self) -> None:
        """End the shards."""
        for handle in self._handles:
            handle.kill()
