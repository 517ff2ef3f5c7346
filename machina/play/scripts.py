"""A user's function as a player."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from machina.actions import policy_actions
from machina.errors import RAISED, UserError, in_one_line_with_place
from machina.specs import ActionSpec
from machina.types import OBSERVATION, ActorInput, Array, CoreState


class ScriptPlayer:
    """A function that plays one slot; implements ``machina.play.matches.Player``.

    Args:
        name: ``module:function``.
        function: takes an observation, an array or, of an environment with several, a dictionary of arrays by key, and
            a random generator; returns an action as the environment takes it.
        action: of the environment.
        generator: for the function.
    """

    def __init__(
        self, name: str, function: Callable[..., Any], action: ActionSpec, generator: np.random.Generator
    ) -> None:
        self.name = name
        self._function = function
        self._action = action
        self._generator = generator

    def initial_core_state(self, num_slots: int) -> CoreState:  # noqa: ARG002 (a script keeps what it likes)
        """Nothing."""
        return ()

    def act(self, inputs: ActorInput) -> tuple[Array, CoreState]:
        """Ask the function.

        Raises:
            UserError: it raises, or returns no action of the environment.
        """
        observation: Any = {key: array[0] for key, array in inputs.observation.items()}
        if list(observation) == [OBSERVATION]:
            observation = observation[OBSERVATION]
        try:
            answer = self._function(observation, self._generator)
        except RAISED as error:
            place = in_one_line_with_place(error, self.name.partition(":")[0])
            raise UserError(f"script {self.name!r} raised {place}") from error
        try:
            return policy_actions(self._action, np.asarray(answer)[None]), inputs.core_state
        except (ValueError, TypeError) as error:
            raise UserError(f"script {self.name!r} returned {answer!r}: {error}") from error
