"""Takes in an episode as it is played."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata

import numpy as np

from machina.demonstrations.episode import EpisodeHeader, Who
from machina.demonstrations.pictures import PictureWriter
from machina.specs import EnvSpec
from machina.types import OBSERVATION, Array, StepResult

PACKAGES = ("machina-trainer", "gymnasium", "ale-py", "numpy")
"""Whose versions are noted with every episode."""


class EpisodeRecorder:
    """The entries and actions of one episode, in memory until it is written.

    Args:
        spec: of the environment, of one agent.
        seed: that the reset was given.
        entry: of one slot, from the reset.
        picture: ``[H, W, 3]`` uint8 of it, or None where no pictures are recorded.
    """

    def __init__(self, spec: EnvSpec, seed: int, entry: StepResult, picture: Array | None = None) -> None:
        self._spec = spec
        self._seed = seed
        self._observations: dict[str, list[Array]] = {key: [] for key in spec.observation}
        if spec.stores_frames_once:
            self._observations[OBSERVATION] += [frame.copy() for frame in entry.observation[OBSERVATION][0, :-1]]
        self._entries: dict[str, list[Array]] = {
            name: [] for name in ("reward", "terminated", "truncated", "life_lost")
        }
        self._actions: list[Array] = []
        self._who: list[int] = []
        self._pictures = None if picture is None else PictureWriter()
        self._take(entry, picture)

    @property
    def length(self) -> int:
        """Env steps so far."""
        return len(self._actions)

    @property
    def episode_return(self) -> float:
        """The sum of the rewards so far."""
        return float(np.sum(self._entries["reward"], dtype=np.float64))

    def add(self, action: Array, who: Who, entry: StepResult, picture: Array | None = None) -> None:
        """Take in a step.

        Args:
            action: ``[1, *action.shape]`` that was done on the last entry.
            who: chose it.
            entry: that arrived then, of one slot.
            picture: of it, where pictures are recorded.

        Raises:
            ValueError: the picture is of another size than the first.
        """
        self._actions.append(action[0].copy())
        self._who.append(int(who))
        self._take(entry, picture)

    def header(self, players: Mapping[Who, str], pictures_per_s: float) -> EpisodeHeader:
        """The header of what was taken in.

        Args:
            players: names of all that may have acted; kept are those that did.
            pictures_per_s: at which it was, or would be, watched.
        """
        acted = {Who(number) for number in self._who}
        return EpisodeHeader(
            spec=self._spec,
            seed=self._seed,
            length=self.length,
            episode_return=self.episode_return,
            players={who.name.lower(): players[who] for who in sorted(acted)},
            versions=library_versions(),
            picture_shape=None if self._pictures is None else self._pictures.shape,
            pictures_per_s=pictures_per_s,
        )

    def arrays(self) -> dict[str, Array]:
        """All arrays, as ``write_episode`` takes them."""
        stored = self._spec.stored_observation
        result = {
            f"observation/{key}": np.stack(parts).astype(stored[key].dtype, copy=False)
            for key, parts in self._observations.items()
        }
        result["action"] = np.array(self._actions, self._spec.action.dtype)
        result["who"] = np.array(self._who, np.uint8)
        result |= {name: np.array(values) for name, values in self._entries.items()}
        return result if self._pictures is None else result | self._pictures.arrays()

    def _take(self, entry: StepResult, picture: Array | None) -> None:
        for key, parts in self._observations.items():
            array = entry.observation[key][0]
            parts.append((array[-1] if key == OBSERVATION and self._spec.stores_frames_once else array).copy())
        for name, values in self._entries.items():
            values.append(getattr(entry, name)[0])
        if self._pictures is not None and picture is not None:
            self._pictures.add(picture)


def library_versions() -> dict[str, str]:
    """Of what an episode depends on."""
    return {name: metadata.version(name) for name in PACKAGES}
