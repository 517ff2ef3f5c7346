"""The place ``inline``: everything in one thread, in a fixed order."""

from __future__ import annotations

from collections.abc import Callable

from machina.config import RuntimeConfig
from machina.interfaces import EnvFactory, Policy
from machina.runtime.plane import Plane, PlaneConfig, group_key
from machina.runtime.stepping import InlineStepper
from machina.runtime.unrolls import from_arrays, section, to_arrays
from machina.types import Array, Unroll


class InlinePlane(Plane):
    """Runs the actors when the queue runs dry: the same seed gives the same run, bit for bit."""

    def __init__(
        self, factory: EnvFactory, make_policy: Callable[[], Policy], runtime: RuntimeConfig, config: PlaneConfig
    ) -> None:
        super().__init__(factory, make_policy, runtime, config, InlineStepper, capacity=None)

    def start(self, state: dict[str, Array]) -> None:
        """Build the environments and go on from ``state`` (empty: a new run)."""
        self._initial = state
        waiting = section(state, "queue/")
        if waiting:
            self.queue.put(from_arrays(waiting), release=lambda: None)
        for index in range(self._runtime.actors):
            self._actors.append(self._make_actor(index))

    def next_batch(self, timeout_s: float) -> Unroll[Array]:  # noqa: ARG002 (never waits)
        """The next batch; runs a round of every actor while the queue is short."""
        while (batch := self.queue.get(self._config.batch_size, timeout_s=0)) is None:
            for actor in self._actors:
                actor.run_round(self.store.latest())
        return batch

    def state(self) -> dict[str, Array]:
        """Every group's state and the unrolls that wait, as named arrays."""
        state: dict[str, Array] = {}
        for actor in self._actors:
            for group in actor.groups:
                state |= {group_key(group.slots) + key: array for key, array in group.state().items()}
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
