"""What a player remembers from one step to the next."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from machina.specs import ActionSpec
from machina.types import ActorInput, Array, BoolArray, CoreState, FloatArray, IntArray, StepResult, where_slots


class Memory:
    """Core state and previous action of a player in B slots; both start afresh after the last entry of an episode.

    Args:
        action: of the environment.
        num_slots: B.
        core_state: the player's ``initial_core_state`` of B slots, zeros; the memory's own from now on.
    """

    def __init__(self, action: ActionSpec, num_slots: int, core_state: CoreState) -> None:
        self._none = action.none(num_slots)
        self.core_state = core_state
        """``[B, ...]`` each: with which the player acts on the next entry."""
        self.previous_action = self._none
        """``[B, *action.shape]``: the last own action in the episode, ``action.none`` before its first."""
        self.first: BoolArray = np.ones(num_slots, np.bool_)
        """``[B]``: whether the next entry opens an episode."""

    def inputs(self, entry: StepResult, task_ids: IntArray, uniforms: FloatArray, slots: IntArray) -> ActorInput:
        """What the player is asked at an entry; see ``ActorInput``."""
        return ActorInput(
            entry.observation,
            entry.reward,
            self.previous_action,
            self.first,
            task_ids,
            self.core_state,
            uniforms,
            slots,
        )

    def keep(self, entry: StepResult, action: Array, core_state: CoreState) -> Array:
        """Take in what the player did on an entry.

        Args:
            entry: of B slots.
            action: ``[B, *action.shape]``; off turn it is ignored.
            core_state: ``[B, ...]`` each.

        Returns:
            ``[B, *action.shape]``: the action on turn, the last own one off turn.
        """
        own = where_slots(entry.on_turn, action, self.previous_action)
        self.first = entry.terminated | entry.truncated
        self.previous_action = where_slots(self.first, self._none, own)
        self.core_state = tuple(where_slots(self.first, np.zeros_like(array), array) for array in core_state)
        return own

    def state(self) -> dict[str, Array]:
        """Everything, as named arrays for a checkpoint."""
        core_state = {f"core_state/{i}": array for i, array in enumerate(self.core_state)}
        return {**core_state, "previous_action": self.previous_action, "first": self.first}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Continue from ``state``, which may stand among other arrays."""
        self.core_state = tuple(state[f"core_state/{i}"] for i in range(len(self.core_state)))
        self.previous_action = state["previous_action"]
        self.first = state["first"]
