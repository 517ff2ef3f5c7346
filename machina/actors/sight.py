"""Whether those who play see anything of their game."""

from __future__ import annotations

import numpy as np

from machina.specs import EnvSpec
from machina.types import StepResult

STEPS = 50
"""Without a change, after which a game is taken to be played blind."""


class SightCheck:
    """Watches the observations of one game until something changes, as a rule for a step.

    Args:
        spec: of the environment; with seats, all agents of the first game are watched, else the first slot.
        entry: the first one.
    """

    def __init__(self, spec: EnvSpec, entry: StepResult) -> None:
        self._name = spec.name
        self._slots = slice(0, spec.slots_per_game)
        self._first = entry
        self._steps = 0

    def look(self, entry: StepResult) -> str | None:
        """One line for the user once ``STEPS`` steps of a game have changed nothing, empty once something has changed.

        None as long as neither is so; a game that ends before begins the count anew.
        """
        first, slots = self._first, self._slots
        if (first.terminated | first.truncated)[slots].all():  # a reset step
            self._first, self._steps = entry, 0
            return None
        if any(
            not np.array_equal(first.observation[key][slots], seen[slots]) for key, seen in entry.observation.items()
        ):
            return ""
        self._steps += 1
        if self._steps == STEPS:
            return (
                f"no element of any observation of {self._name} changed in the first {STEPS} steps of a game: it is "
                "played blind; does it draw only in a render mode, or never write what is seen?"
            )
        self._first = first._replace(terminated=entry.terminated, truncated=entry.truncated)
        return None
