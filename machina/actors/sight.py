"""Whether players see anything of their game."""

from __future__ import annotations

import numpy as np

from machina.specs import EnvSpec
from machina.types import StepResult

STEPS = 50
"""Without a change, after which a game is taken to be played blind."""

MOST_STEPS = 1000
"""That are looked at: short games that each show another picture from beginning to end may be meant so."""


class SightCheck:
    """Watches the observations of one game after another until something changes, as a rule for a step.

    Args:
        spec: of the environment; with seats, all agents of the first game are watched, else the first slot.
        entry: the first one.
    """

    def __init__(self, spec: EnvSpec, entry: StepResult) -> None:
        self._name = spec.name
        self._slots = slice(0, spec.slots_per_game)
        self._first = entry
        self._steps = 0
        """Of this game."""
        self._looked_at = 0
        """Steps of all games."""
        self._games_look_alike = True

    def look(self, entry: StepResult) -> str | None:
        """One line for the user once ``STEPS`` steps have changed nothing, empty once something has changed.

        They may be steps of several games if these begin alike, too. None as long as neither is so, empty after
        ``MOST_STEPS``.
        """
        first, slots = self._first, self._slots
        changed = any(
            not np.array_equal(first.observation[key][slots], seen[slots]) for key, seen in entry.observation.items()
        )
        if (first.terminated | first.truncated)[slots].all():  # a reset step
            self._games_look_alike &= not changed
            self._first, self._steps = entry, 0
            return None
        if changed:
            return ""
        self._steps += 1
        self._looked_at += 1
        if self._steps == STEPS or (self._games_look_alike and self._looked_at == STEPS):
            of = "a game" if self._steps == STEPS else "its games"
            return (
                f"no element of any observation of {self._name} changed in the first {STEPS} steps of {of}: it is "
                "played blind; does it draw only in a render mode, or never write what is seen?"
            )
        self._first = first._replace(terminated=entry.terminated, truncated=entry.truncated)
        return "" if self._looked_at == MOST_STEPS else None
