"""The place ``inline``: everything in one thread, in a fixed order."""

from __future__ import annotations

import itertools

import numpy as np

from machina.config import RuntimeConfig
from machina.runtime.batches import Batch, Handover
from machina.runtime.building import ActorSetup, opponents_key
from machina.runtime.group import group_key
from machina.runtime.plane import InProcessPlane, PlaneConfig
from machina.runtime.stepping import InlineStepper
from machina.runtime.unrolls import from_arrays, num_slots, slice_slots, to_arrays
from machina.types import Array, section


class InlinePlane(InProcessPlane):
    """Runs the actors when the queue runs dry: the same seed gives the same run, bit for bit."""

    def __init__(self, setup: ActorSetup, runtime: RuntimeConfig, config: PlaneConfig) -> None:
        super().__init__(setup, runtime, config, InlineStepper, bounded=False)

    def start(self, state: dict[str, Array]) -> None:
        """Build the environments and go on from ``state`` (empty: a new run)."""
        for slots in self._slots:
            self._actors.append(self._builder.build(slots, state, self.store.latest().opponents))
        waiting = section(state, "queue/")
        if waiting:
            self._actors[0].groups[0].check_unrolls(waiting)
            unroll = from_arrays(waiting)
            # Those of one version together, as they were handed over: by it they are dropped.
            bounds = np.flatnonzero(np.diff(unroll.policy_version)) + 1
            for start, stop in itertools.pairwise([0, *bounds.tolist(), num_slots(unroll)]):
                part = slice_slots(unroll, start, stop)
                self.queue.put(Handover(part, stop - start, int(part.policy_version[0]), lambda: None))

    def next_batch(self, timeout_s: float) -> Batch:  # noqa: ARG002 (never waits)
        """The next batch; runs a round of every actor while the queue is short."""
        while (batch := self._batch_from_queue(timeout_s=0)) is None:
            for actor in self._actors:
                actor.run_round(self.store.latest())
        return batch

    def state(self) -> dict[str, Array]:
        """Every group's state and the unrolls that wait, as named arrays."""
        state: dict[str, Array] = {}
        for slots, actor in zip(self._slots, self._actors, strict=False):
            for group in actor.groups:
                state |= {group_key(group.slots) + key: array for key, array in group.state().items()}
            if actor.opponents is not None:
                key = opponents_key(slots)
                state |= {key + name: array for name, array in actor.opponents.state().items()}
        waiting = self.queue.waiting()
        if waiting is not None:
            state |= {f"queue/{key}": array for key, array in to_arrays(waiting).items()}
        return state

    def unrolls_at_hand(self) -> int:
        """None: no unroll is open between two batches, and those that wait are in ``state``."""
        return 0

    def close(self) -> None:
        """Close the environments."""
        for actor in self._actors:
            actor.close()
