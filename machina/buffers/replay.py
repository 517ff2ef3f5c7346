"""The replay: a buffer from which each step may be learned many times.

Units are env steps. What is collected is spread over shards; what is learned is drawn from them, as often as the replay
ratio says. The account is exact at any moment: collected = stored + removed + lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from machina.buffers.buffer import Batch, BufferClosedError, BufferSizes, Handover, Part, ReplayPart, Shards
from machina.buffers.error_scales import ErrorScales
from machina.buffers.replay_pool import ReplayPool, Selection
from machina.buffers.replay_shard import AGENT, DEMONSTRATIONS, ShardSetup
from machina.errors import RunFailedError, UserError
from machina.streams import Stream
from machina.types import Array, IntArray, Learned

COUNTERS = "counters"
"""The part that holds what the replay itself counts."""


class Share(NamedTuple):
    """How much of every batch comes from one memory in addition to the agent's, and to those of the shares before."""

    memory: str
    start: float
    """Of each item of a batch: the probability that it comes from here."""
    final: float
    steps: int
    """Env steps over which it moves from ``start`` to ``final``, each step by the same factor; 0: ``start`` stays."""

    def at(self, env_steps: int) -> float:
        """The share after this many env steps."""
        if self.steps == 0:
            return self.start
        done = min(1.0, env_steps / self.steps)
        return float(self.start * (self.final / self.start) ** done)


class ReplayPlan(NamedTuple):
    """How a replay is sampled."""

    ratio: float
    """Samples learned per env step collected; each item of a batch is ``sample_steps`` samples."""
    sample_steps: int
    """Env steps of an item that are learned: 1 of a transition, more of a sequence."""
    learning_starts: int
    """Env steps collected before the first update; those after it count for the ratio."""
    exponent: float
    """beta of the importance weights at the start, and at the end of the run."""
    exponent_final: float
    shares: tuple[Share, ...] = ()
    pretraining_updates: int = 0
    """From demonstrations alone, before anything is collected."""


class Replay:
    """Implements ``machina.buffers.buffer.Buffer``.

    Args:
        plan: how it is sampled.
        sizes: of the run.
        setups: of its shards.
        shards: where they live.
    """

    def __init__(self, plan: ReplayPlan, sizes: BufferSizes, setups: Sequence[ShardSetup], shards: Shards) -> None:
        self._plan = plan
        self._sizes = sizes
        self._pool = ReplayPool(setups, shards, sizes.num_slots)
        memories = setups[0].memories
        self._prioritized = {name: memory.rule.kind != "none" for name, memory in memories.items()}
        self._scales = ErrorScales(memories[AGENT].layout.spec.num_tasks)
        self._arrived: list[Handover] = []
        """In lock-step, until the round is whole: they are stored in the order of their slots, whoever was first."""
        self._changed = threading.Condition()
        self._closed = False
        self._accepted = 0
        self._collected = 0
        self._taken = 0
        """Batches since the start."""
        self._learned_steps = 0
        """Samples in batches that were taken and not lost."""
        self._published_at = 0
        self._uncounted = plan.learning_starts
        """Env steps that the ratio does not count: before learning begins, and what nobody can learn any more."""
        self._at_start = 0
        """Env steps that were counted when the session began."""
        self._before = 0
        """Of the whole run, those that this replay has not counted."""

    # Collecting

    def admits(self, unrolls: int, promised: int, slots: int) -> bool:
        """Whether a round may begin; actors are a round of every slot ahead of the learner at most."""
        steps = (promised + unrolls) * self._sizes.unroll_length
        ahead = slots * self._sizes.unroll_length * self._plan.ratio + self._batch_steps
        with self._changed:
            return not self._pretrains and self._owed(self._collected + steps) <= ahead

    @property
    def _pretrains(self) -> bool:
        """Whether the next batch is of demonstrations alone."""
        return self._taken < self._plan.pretraining_updates

    @property
    def _batch_steps(self) -> int:
        return self._sizes.batch_size * self._plan.sample_steps

    def _owed(self, collected: int) -> float:
        """Samples that the learner is behind, once this much is collected."""
        return max(0, collected - self._uncounted) * self._plan.ratio - self._learned_steps

    def put(self, handover: Handover) -> None:
        """Take in an unroll.

        Raises:
            BufferClosedError: the replay was closed.
        """
        with self._changed:
            if self._closed:
                raise BufferClosedError
            self._accepted += handover.num_slots
            self._collected += handover.num_slots * self._sizes.unroll_length
            self._arrived.append(handover)
            if handover.order is None:
                self._store_arrived()
            self._changed.notify_all()

    def _store_arrived(self) -> None:
        for handover in sorted(self._arrived, key=lambda each: each.order or 0):
            slots = np.arange(handover.first_slot, handover.first_slot + handover.num_slots)
            self._pool.put(handover.unroll, slots, self._sizes.unroll_length)
            handover.release()
        self._arrived = []

    # Learning

    def take(self, updates: int, timeout_s: float) -> Batch | None:  # noqa: ARG002 (nothing is too old)
        """The next batch, or None after ``timeout_s``, or when all that could be drawn was lost.

        Raises:
            RunFailedError: there is enough to begin, and nothing of it can be drawn.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not self._is_due():
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return None
                self._changed.wait(remaining)
            self._store_arrived()
            return self._draw()

    def _is_due(self) -> bool:
        return self._pretrains or self._owed(self._collected) >= self._batch_steps

    def _draw(self) -> Batch | None:
        self._pool.settle()
        if self._pool.lost and not any(self._holds(memory) for memory in self._memories):
            # Learning goes on with what comes now; else actors would wait for a learner that waits for them.
            self._uncounted = self._collected - int(self._learned_steps / self._plan.ratio)
            return None
        generator = np.random.default_rng([self._sizes.seed, Stream.REPLAY, self._taken])
        selections: list[Selection] = []
        weights, names = [], []
        env_steps = self._before + self._counted
        beta = self._exponent(env_steps)
        for memory, count in self._counts(generator, env_steps).items():
            reports = self._pool.reports(memory)
            items, mass = sum(report.items for report in reports), sum(report.mass for report in reports)
            if items == 0 or mass <= 0:
                raise RunFailedError(
                    f"the replay's memory of {memory} holds no item that can be drawn after {self._collected:,} env "
                    "steps; use more --replay-capacity or a later --learning-starts"
                )
            fractions = (np.arange(count) + generator.random(count)) / count
            for selection in self._pool.draw(memory, fractions):
                selections.append(selection)
                weights.append((selection.masses / mass * items) ** -beta)
                names.append(memory)
        if not selections:  # every shard was lost
            return None
        counted = 0 if self._pretrains else self._batch_steps
        self._learned_steps += counted
        self._taken += 1
        most = max(float(each.max()) for each in weights)
        parts = [
            Part(each.unroll, 0, len(each.keys), (own / most).astype(np.float32))
            for each, own in zip(selections, weights, strict=True)
        ]
        return SampledBatch(parts, selections, names, counted, self._publishes())

    def _exponent(self, env_steps: int) -> float:
        done = min(1.0, env_steps / self._sizes.total_env_steps)
        return self._plan.exponent + (self._plan.exponent_final - self._plan.exponent) * done

    def _counts(self, generator: np.random.Generator, env_steps: int) -> dict[str, int]:
        """How many items of a batch come from each memory; each is drawn by itself."""
        if self._pretrains:
            return {DEMONSTRATIONS: self._sizes.batch_size}
        shares = {AGENT: 1.0}
        for share in self._plan.shares:  # each of what those before leave
            shares[share.memory] = shares[AGENT] * share.at(env_steps)
            shares[AGENT] -= shares[share.memory]
        present = {name: share for name, share in shares.items() if self._holds(name)}
        total = sum(present.values())
        if not total:
            return {AGENT: self._sizes.batch_size}
        counts = generator.multinomial(self._sizes.batch_size, [share / total for share in present.values()])
        return {name: int(count) for name, count in zip(present, counts, strict=True) if count}

    @property
    def _memories(self) -> list[str]:
        return [AGENT, *(share.memory for share in self._plan.shares)]

    def _holds(self, memory: str) -> bool:
        return any(report.items for report in self._pool.reports(memory))

    def _publishes(self) -> bool:
        """Once a burst of updates: when nothing is left to learn, or the learner is a whole round behind."""
        round_steps = self._sizes.num_slots * self._sizes.unroll_length * self._plan.ratio
        if self._is_due() and self._learned_steps - self._published_at < round_steps:
            return False
        self._published_at = self._learned_steps
        return True

    def settle(self, batch: Batch, learned: Learned | None) -> None:
        """Write the batch's priorities back; None: it was not learned from, and something else will be."""
        assert isinstance(batch, SampledBatch)
        with self._changed:
            if learned is None:
                self._learned_steps -= batch.counted
            elif learned.priorities is not None:
                for selection, memory, errors in batch.with_errors(learned.priorities):
                    if self._prioritized[memory]:
                        self._write_back(memory, selection, errors)
            self._changed.notify_all()

    def _write_back(self, memory: str, selection: Selection, errors: Array) -> None:
        self._scales.note(selection.task_ids, errors)
        scales = self._scales.values.copy()
        in_units = np.asarray(errors / scales[selection.task_ids], np.float32)
        self._pool.write_back(memory, selection.keys, in_units, scales)

    # Numbers

    @property
    def holds_batch(self) -> bool:
        """Whether the learner owes an update for what was collected."""
        with self._changed:
            return self._is_due()

    @property
    def accepted(self) -> int:
        """Unrolls put so far."""
        with self._changed:
            return self._accepted

    @property
    def env_steps(self) -> int:
        """Put in in this session, less those whose updates are still owed."""
        with self._changed:
            return self._counted - self._at_start

    @property
    def _counted(self) -> int:
        owed = self._owed(self._collected)
        if owed < self._batch_steps:
            return self._collected
        return self._collected - int((owed - self._batch_steps) / self._plan.ratio) - 1

    def env_steps_of(self, unrolls: int) -> int:  # noqa: ARG002 (what is learned was counted when it was collected)
        """None."""
        return 0

    @property
    def num_queued(self) -> int:
        """Batches that are not settled hold nothing that would be lost."""
        return 0

    def account(self) -> dict[str, int]:
        """Env steps collected; stored; removed, the oldest first; lost with shards."""
        with self._changed:
            waiting = sum(each.num_slots for each in self._arrived) * self._sizes.unroll_length
            self._pool.settle()
            return {
                "collected": self._collected,
                "stored": self._pool.count("stored") + waiting,
                "removed": self._pool.count("removed"),
                "lost": self._pool.lost,
            }

    def metrics(self) -> dict[str, float]:
        """The replay ratio since learning began, and priorities that came too late."""
        with self._changed:
            counted = self._collected - self._uncounted
            return {
                "replay/ratio": self._learned_steps / counted if counted > 0 else 0.0,
                "replay/stale_priorities": self._pool.count("stale"),
            }

    # Saving

    def state(self) -> dict[str, Array]:
        """Nothing: all is in parts."""
        return {}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """There is none."""

    def visit_parts(self, visit: Callable[[ReplayPart], None]) -> None:
        """The shards' content and the counters."""
        with self._changed:
            self._store_arrived()
            for part in self._pool.parts():
                visit(part)
            own = (self._collected, self._taken, self._learned_steps, self._published_at, self._uncounted)
            counters = np.array((*own, *self._pool.gone), np.int64)
            visit(ReplayPart(COUNTERS, None, lambda: {"counters": counters, "scales": self._scales.state()}))

    def resume(self, env_steps: int, parts: Mapping[str, Callable[[], dict[str, Array]]]) -> None:
        """Continue with what was kept, or with an empty replay.

        Raises:
            UserError: the parts are of a replay with other options.
        """
        if parts:
            if COUNTERS not in parts:
                raise UserError("checkpoint: its replay has no counters; use another checkpoint")
            counters = parts[COUNTERS]()
            numbers = counters["counters"].tolist()
            self._scales.load_state(counters["scales"])
            self._collected, self._taken, self._learned_steps, self._published_at, self._uncounted = numbers[:5]
            self._pool.gone = numbers[5:]
            self._pool.load_parts({name: read for name, read in parts.items() if name != COUNTERS})
        else:
            self._taken = self._plan.pretraining_updates
        self._at_start = self._counted
        self._before = env_steps - self._at_start

    def close(self) -> None:
        """Take nothing more, and end the shards."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._pool.close()


class SampledBatch(Batch):
    """A batch that remembers where its items were drawn.

    Args:
        parts: one for each selection.
        selections: of a memory of a shard each.
        memories: of which each selection is.
        counted: samples for the replay ratio.
        publishes: see ``Batch``.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        selections: Sequence[Selection],
        memories: Sequence[str],
        counted: int,
        publishes: bool,
    ) -> None:
        versions: IntArray = np.concatenate([each.policy_versions for each in selections])
        super().__init__(parts, versions, (), publishes=publishes)
        self._selections = selections
        self._memories = memories
        self.counted = counted

    def with_errors(self, errors: Array) -> list[tuple[Selection, str, Array]]:
        """Each selection, its memory and its items' part of ``errors`` ``[B]``."""
        bounds = np.cumsum([len(each.keys) for each in self._selections])[:-1]
        return list(zip(self._selections, self._memories, np.split(errors, bounds), strict=True))
