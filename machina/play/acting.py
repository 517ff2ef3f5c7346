"""A player with its memory: what evaluation, films and Python users act with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from machina.actions import native_actions, without_choice
from machina.envs.declared import lossless
from machina.envs.observations import flat_observation
from machina.errors import EnvironmentFaultError, UserError
from machina.interfaces import Policy
from machina.memory import Memory
from machina.play.matches import Player, PolicyPlayer
from machina.specs import EnvSpec
from machina.streams import SlotStreams
from machina.types import (
    ACTION_MASK,
    Array,
    IntArray,
    StepResult,
    single_agent_step,
)


class ActingPlayer:
    """A player with its memory.

    Args:
        player: acts for B slots.
        spec: of the environment.
        slots: ``[B]``, those that it plays.
        task_ids: ``[B]``.
        seed: seeds action sampling, one stream per slot.
    """

    def __init__(self, player: Player, spec: EnvSpec, slots: IntArray, task_ids: IntArray, seed: int) -> None:
        self.player = player
        self.slots = slots
        self._task_ids = task_ids
        self._action = spec.action
        self._streams = SlotStreams(seed, slots, spec.action.shape)
        self.reset()

    def reset(self) -> None:
        """Forget what came before: the next entry opens an episode in every slot."""
        num_slots = len(self.slots)
        self._memory = Memory(self._action, num_slots, self.player.initial_core_state(num_slots))

    def act(self, entry: StepResult, instead: Array | None = None) -> Array:
        """Act on an entry of its slots.

        Args:
            entry: of B slots.
            instead: ``[B, *action.shape]``, what somebody else does in its place; it remembers that as its own, so that
                it can go on from there.

        Returns:
            ``[B, *action.shape]``: what is done.
        """
        inputs = self._memory.inputs(entry, self._task_ids, self._streams.next(), self.slots)
        action, core_state = self.player.act(inputs)
        done = action if instead is None else instead
        self._memory.keep(entry, done, core_state)
        return done


class LoadedPolicy:
    """A run's policy for one environment of your own, on plain numpy observations.

    ::

        policy = machina.load_policy("runs/pong")
        policy.reset()
        action = policy.act(observation)
    """

    def __init__(self, policy: Policy, spec: EnvSpec, seed: int, task_id: int = 0) -> None:
        self._spec = spec
        self._acting = ActingPlayer(PolicyPlayer("policy", policy), spec, np.arange(1), np.full(1, task_id), seed)

    def reset(self) -> None:
        """Start an episode."""
        self._acting.reset()

    def act(self, observation: npt.ArrayLike | Mapping[str, Any] | tuple[Any, ...], reward: float = 0.0) -> Any:
        """Choose an action: an integer, or an array of integers or of numbers, as the environment takes it.

        Args:
            observation: one observation as the environment gives it, without batch axis; an image stack as
                ``[stack, H, W]`` uint8. An array or a number, or dictionaries and tuples of them; what the policy was
                not trained on is passed over.
            reward: the reward that came with it; recurrent policies read it.

        Raises:
            UserError: the reward is no finite number; an array is missing, not finite, of another shape than the run's
                environment gave or of numbers that its dtype can't hold (parts of 1 for bytes), a number is none of its
                choices, or the action mask allows nothing.
        """
        if not _is_finite(reward):
            raise UserError(f"reward={reward!r}: must be a finite number")
        try:
            arrays = flat_observation(self._spec.observation, observation, batched=False)
        except ValueError as error:
            raise UserError(f"{error}; the policy needs {', '.join(self._spec.observation)}") from error
        batch: dict[str, Array] = {}
        for key, expected in self._spec.observation.items():
            try:
                array = np.array(lossless(arrays[key], np.dtype(expected.dtype), f"observation {key!r}"), order="C")
            except EnvironmentFaultError as error:
                raise UserError(f"{error}; the policy was trained on {expected.dtype}") from error
            if not np.isfinite(array).all():
                raise UserError(f"observation {key!r} is not finite")
            if array.shape != expected.shape:
                raise UserError(f"observation {key!r} has shape {array.shape}, the policy needs {expected.shape}")
            batch[key] = array[None]
        if ACTION_MASK in batch and without_choice(self._spec.action, batch[ACTION_MASK]).any():
            raise UserError(f"observation {ACTION_MASK!r} allows no action")
        # Whether an episode ended here the user knows, and calls reset.
        not_ended = np.zeros(1, np.bool_)
        action = self._acting.act(
            single_agent_step(batch, np.full(1, reward, np.float32), not_ended, not_ended, not_ended)
        )
        native = native_actions(self._spec.action, action)[0]
        return int(native) if self._spec.action.kind == "discrete" else native


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except TypeError:
        return False
