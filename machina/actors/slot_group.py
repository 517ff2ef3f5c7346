"""One group of slots: its environment, the memory of its players, and the unroll that is being filled."""

from __future__ import annotations

import collections
import queue
from collections.abc import Callable, Mapping

import numpy as np

from machina.actors.saved_arrays import check_arrays, check_counter, check_names
from machina.actors.seating import Seating
from machina.actors.sight import SightCheck
from machina.actors.stepping import RESET_TIMEOUT_PER_SLOT_S, Stepper
from machina.buffers.unrolls import UnrollBuffer, to_arrays
from machina.errors import UserError
from machina.interfaces import Opponents, Policy
from machina.memory import Memory
from machina.specs import ArraySpec
from machina.streams import SlotStreams, Stream, env_seeds
from machina.types import (
    PER_SLOT,
    Array,
    Episode,
    IntArray,
    StepResult,
    Unroll,
    section,
)

MakeStepper = Callable[[], Stepper]


class SlotGroup:
    """Fills unrolls of ``unroll_length`` steps for slots that step together.

    Entry 0 of an unroll is the last entry of the one before. The step after an episode's end is a
    reset step (NEXT_STEP): the policy acts there too, the environment ignores the action, and the
    core state and previous action start afresh at the entry that follows.

    Args:
        make_stepper: builds the environment and what steps it; called again after a fault.
        policy: acts for this group; shared with the actor's other group.
        opponents: other players in games of several agents, shared as well.
        slots: ``[B]`` indices in the whole run.
        seed: the run's seed.
        unroll_length: T.
        policy_outputs: what the policy leaves in an unroll, see ``Algorithm.policy_outputs``.
        step_timeout_s: deadline of one environment step.
        state: what ``state`` or ``counters`` gave in a former run; empty for a new one.

    Raises:
        EnvironmentFaultError: the environment can't start an episode.
    """

    def __init__(
        self,
        make_stepper: MakeStepper,
        policy: Policy,
        opponents: Opponents | None,
        slots: IntArray,
        seed: int,
        unroll_length: int,
        policy_outputs: Mapping[str, ArraySpec],
        step_timeout_s: float,
        state: dict[str, Array],
    ) -> None:
        self._make_stepper = make_stepper
        self._policy = policy
        self.slots = slots
        self._seed = seed
        self._unroll_length = unroll_length
        self._policy_outputs = policy_outputs
        self._timeout_s = step_timeout_s
        self.remark = ""
        """What the user should know about the environment; cleared by whoever reports it."""
        self._free: queue.SimpleQueue[UnrollBuffer] = queue.SimpleQueue()
        # Without the environment's own state its episodes start afresh, from seeds not used before.
        self.restarts = _counter(state, "restarts", -1) + ("returns" not in state)
        self.filled = 0
        """Steps in the open unroll."""
        self.full = False
        self.finished_episodes: collections.deque[Episode] = collections.deque()
        """Of the policy that learns, not of opponents; filled by the actor's thread, drained by the trainer's."""
        self._stepper = make_stepper()
        self._spec = self._stepper.env.spec
        drawn = _counter(state, "drawn", 0)
        if "drawn" in state and "returns" not in state:
            drawn += 1  # so that no unroll from now on seems to continue one from before, see ``Unroll.start``
        self._streams = SlotStreams(seed, slots, self._spec.action.shape, drawn)
        self._seating = Seating(self._spec, len(slots), opponents, (seed, Stream.SEATING, int(slots[0])))
        self.finished_games = self._seating.finished_games
        """Filled and drained like the episodes."""
        if "seating/drawn" in state:
            self._seating.load_counters(section(state, "seating/"))
        self._task_ids = self._stepper.env.task_ids
        try:
            self._begin_episodes(self._reset())
        except BaseException:
            self._stepper.close()
            raise
        if "returns" in state:
            self._restore(state)
        else:
            check_names(state, self.counters(), "actors' state")
        # One group of the whole run looks.
        self._sight = SightCheck(self._spec, self._entry) if slots[0] == 0 else None
        self._buffer = self._new_buffer()

    def check_unrolls(self, arrays: dict[str, Array]) -> None:
        """Refuse saved unrolls, as ``to_arrays`` names them, of any number of slots that are not like this group's.

        Raises:
            UserError: names, shapes, formats or labels differ.
        """
        own = to_arrays(self._new_buffer().unroll)
        slot_axis = {name: 0 if name in PER_SLOT or name.startswith("core_state/") else 1 for name in own}
        check_arrays(arrays, own, "unrolls that wait:", slot_axis)
        if len({array.shape[slot_axis[name]] for name, array in arrays.items()}) != 1:
            raise UserError("checkpoint: unrolls that wait are of different numbers of slots; use another checkpoint")
        expected = [self._spec.task_of(int(slot)) for slot in arrays["slot"]]
        if (arrays["slot"] < 0).any() or (arrays["task_id"] != expected).any() or (arrays["policy_version"] < 0).any():
            raise UserError("checkpoint: unrolls that wait are of unknown slots or tasks; use another checkpoint")

    def _reset(self) -> StepResult:
        seeds = env_seeds(self._seed, self.slots, self.restarts)
        return self._stepper.reset(seeds, self._timeout_s + RESET_TIMEOUT_PER_SLOT_S * len(seeds))

    def _begin_episodes(self, result: StepResult) -> None:
        """Take the first entry of an episode in every slot."""
        num_slots = len(self.slots)
        self._entry = result
        self._memory = Memory(self._spec.action, num_slots, self._policy.initial_core_state(num_slots))
        self._returns = np.zeros(num_slots, np.float64)
        self._lengths = np.zeros(num_slots, np.int64)
        self._seating.begin()

    def _new_buffer(self) -> UnrollBuffer:
        return UnrollBuffer(
            self._spec, self._policy_outputs, self._unroll_length, self.slots, self._task_ids, self._memory.core_state
        )

    def open_unroll(self, policy_version: int) -> None:
        """Start an unroll with the entry at hand and act on it."""
        self.filled = 0
        self.full = False
        memory, start = self._memory, self._streams.drawn
        self._buffer.open(memory.core_state, memory.previous_action, memory.first, policy_version, start)
        self._buffer.write_entry(0, self._entry)

    def act(self) -> None:
        """Act on the newest entry and send the actions to the environment."""
        entry = self._entry
        inputs = self._memory.inputs(entry, self._task_ids, self._streams.next(), self.slots)
        answer = self._seating.answer(self._policy, inputs)
        action = self._memory.keep(entry, answer.action, answer.core_state)
        self._buffer.write_answer(self.filled, action, answer, self._seating.foreign)
        self._stepper.send(answer.action)

    def receive(self) -> None:
        """Take what the environment returned as the next entry.

        Raises:
            EnvironmentFaultError: the environment failed; ``replace`` makes a new one.
        """
        reset_step = self._entry.terminated | self._entry.truncated
        self._entry = self._stepper.receive(self._timeout_s)
        if self._sight is not None and (seen := self._sight.look(self._entry)) is not None:
            self._sight, self.remark = None, seen
        self.filled += 1
        self.full = self.filled == self._unroll_length
        self._buffer.write_entry(self.filled, self._entry)
        self._count_episodes(reset_step)
        self._seating.receive(self._entry)  # seats the players of games that begin

    def _count_episodes(self, reset_step: Array) -> None:
        """Record the episodes that the policy played to their end; before others take its seats."""
        self._returns += self._entry.reward  # 0 at a reset step
        self._lengths += ~reset_step
        ended = self._entry.terminated | self._entry.truncated
        # Without a length, a slot repeats its end until its game is over.
        for slot in np.flatnonzero(ended & (self._lengths > 0) & ~self._seating.foreign):
            self.finished_episodes.append(
                Episode(int(self._task_ids[slot]), float(self._returns[slot]), int(self._lengths[slot]))
            )
        self._returns[ended] = 0
        self._lengths[ended] = 0

    def finish_unroll(self) -> tuple[Unroll[Array], Callable[[], None]]:
        """The full unroll, and what gives its buffer back to this group."""
        full, free = self._buffer, self._free
        try:
            self._buffer = free.get_nowait()
        except queue.Empty:
            self._buffer = self._new_buffer()
        return full.unroll, lambda: free.put(full)

    def replace(self, policy_version: int) -> None:
        """Build a new environment after a fault, start its episodes and a new unroll; the old one is lost."""
        self._stepper.close()
        self.restarts += 1
        self._stepper = self._make_stepper()
        self._begin_episodes(self._reset())
        self.open_unroll(policy_version)

    def close(self) -> None:
        """Close the environment."""
        self._stepper.close()

    def counters(self) -> dict[str, Array]:
        """What keeps random streams from repeating when the group starts again."""
        counters = {"drawn": np.array(self._streams.drawn), "restarts": np.array(self.restarts)}
        if self._spec.seats:
            counters |= {f"seating/{key}": array for key, array in self._seating.counters().items()}
        return counters

    def state(self) -> dict[str, Array]:
        """Everything needed to continue from an unroll's boundary, as named arrays.

        Only the counters when the environment can't save its state: then episodes start afresh.
        """
        env_state = self._stepper.env.get_state()
        if env_state is None:
            return self.counters()
        seating = {f"seating/{key}": array for key, array in self._seating.state().items()}
        return {**self.counters(), **seating, **self._own_arrays(env_state)}

    def _own_arrays(self, env_state: Mapping[str, Array]) -> dict[str, Array]:
        return {
            **{f"env/{key}": array for key, array in env_state.items()},
            **self._memory.state(),
            "returns": self._returns,
            "lengths": self._lengths,
        }

    def _restore(self, state: dict[str, Array]) -> None:
        own = self._own_arrays(self._stepper.env.get_state() or {})
        apart = {key: array for key, array in state.items() if key.startswith("seating/") or key in self.counters()}
        check_arrays({key: array for key, array in state.items() if key not in apart}, own, "actors' state")
        self._entry = self._stepper.env.set_state(section(state, "env/"))
        self._memory.load_state(state)
        self._returns = state["returns"]
        self._lengths = state["lengths"]
        self._seating.load_state(section(state, "seating/"))


def _counter(state: dict[str, Array], name: str, otherwise: int) -> int:
    return check_counter(state[name], f"actors' state {name!r}") if name in state else otherwise


COUNTERS = ("/drawn", "/restarts")
"""Ends of the names of ``counters`` in the actors' state."""


def group_key(slots: IntArray) -> str:
    """Prefix of a group's arrays in the actors' state."""
    return f"slot{int(slots[0])}/"
