"""One recorded episode: its file, and the unrolls that a replay takes in."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from machina.checkpoint.files import write_or_refuse
from machina.config import one_line
from machina.demonstrations.container import Container, ContainerError, mapped, packed, read_header, verify
from machina.demonstrations.pictures import PER_BLOCK, pictures_in
from machina.specs import ArraySpec, EnvSpec
from machina.types import OBSERVATION, Array, Unroll

SUFFIX = ".episode"

DEMONSTRATION_VERSION = -1
"""The ``policy_version`` of unrolls that come from demonstrations."""


@enum.unique
class Who(enum.IntEnum):
    """Who chose an action, as a file stores it."""

    PERSON = 0
    POLICY = 1
    SCRIPT = 2
    UNKNOWN = 3
    """In episodes from somebody else's data set."""


class EpisodeHeader(BaseModel):
    """What an episode's file says besides its arrays. The length T counts env steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: EnvSpec = Field(description="Of the environment: its name, actions, observations and protocol.")
    seed: int | None = Field(description="With which the episode's reset was seeded; None where it is not known.")
    length: int = Field(ge=1, description="T, in env steps.")
    episode_return: float
    players: dict[str, str] = Field(description="Kind of player (person, policy, script, unknown) to its name.")
    versions: dict[str, str] = Field(description="Of Machina and of the libraries that the environment came from.")
    picture_shape: tuple[int, int, int] | None = Field(default=None, description="[H, W, 3] of recorded pictures.")
    pictures_per_s: float = Field(gt=0, le=1000, description="At which the episode is seen as it was played.")

    def arrays(self) -> dict[str, ArraySpec]:
        """The arrays that the file must hold; the pictures' are as long as their compression makes them."""
        entries, lead = self.length + 1, self.spec.frame_stack - 1
        result = {
            f"observation/{key}": ArraySpec(
                shape=(entries + (lead if key == OBSERVATION else 0), *each.shape), dtype=each.dtype
            )
            for key, each in self.spec.stored_observation.items()
        }
        action = self.spec.action
        result["action"] = ArraySpec(shape=(self.length, *action.shape), dtype=action.dtype)
        result["who"] = ArraySpec(shape=(self.length,), dtype="uint8")
        result["reward"] = ArraySpec(shape=(entries,), dtype="float32")
        flags = ("terminated", "truncated", "life_lost")
        return result | {name: ArraySpec(shape=(entries,), dtype="bool") for name in flags}


class RecordedEpisode:
    """An episode on disk. Its arrays are mapped when they are asked for, and let go of with the last that is held.

    Args:
        path: of the file.
        header: of the file.
        container: where its arrays lie.
        index: of the episode in its set.
    """

    def __init__(self, path: Path, header: EpisodeHeader, container: Container, index: int) -> None:
        self.path = path
        self.header = header
        self.index = index
        self._container = container

    @classmethod
    def open(cls, path: Path, index: int = 0) -> RecordedEpisode:
        """The episode of a file, every byte of which is checked.

        Raises:
            ContainerError: no file of ours, or a damaged one.
            OSError: it can't be read.
        """
        container = read_header(path)
        try:
            header = EpisodeHeader.model_validate(container.content)
        except ValidationError as error:
            raise ContainerError(f"header: {one_line(error)}") from error
        _check_arrays(header, container)
        verify(path, container)
        return cls(path, header, container, index)

    @property
    def has_pictures(self) -> bool:
        return self.header.picture_shape is not None

    def arrays(self) -> dict[str, Array]:
        """Every array by its name, read-only, as a view of the file; see ``EpisodeHeader.arrays``.

        Entry t of ``observation/KEY``, ``reward`` and the flags is what arrived together, t = 0 … T; image stacks are
        stored once, ``[T + frame_stack, H, W]``. Element t of ``action`` and ``who`` was done there, t = 0 … T - 1.
        """
        return mapped(self.path, self._container)

    def pictures(self) -> Iterator[Array]:
        """``[H, W, 3]`` uint8 of every entry; nothing where none were recorded."""
        if self.header.picture_shape is not None:
            yield from pictures_in(self.arrays(), self.header.picture_shape, self.header.length + 1)

    def unrolls(
        self, policy_outputs: Mapping[str, ArraySpec], core_shapes: Sequence[tuple[int, ...]], unroll_length: int
    ) -> Iterator[Unroll[Array]]:
        """The episode as consecutive unrolls of one slot, whose observations are views of the file.

        Args:
            policy_outputs: see ``Algorithm.policy_outputs``; zero, since no policy of the run acted.
            core_shapes: of each array of the core state, without the slot axis; zero as well.
            unroll_length: T; the last unroll may be shorter.

        Yields:
            Unrolls of T + 1 entries and one slot, the number of which is ``index``. ``policy_version`` is -1.
        """
        arrays = self.arrays()
        for start in range(0, self.header.length, unroll_length):
            length = min(unroll_length, self.header.length - start)
            yield self._unroll(arrays, start, length, policy_outputs, core_shapes)

    def _unroll(
        self,
        arrays: dict[str, Array],
        start: int,
        length: int,
        policy_outputs: Mapping[str, ArraySpec],
        core_shapes: Sequence[tuple[int, ...]],
    ) -> Unroll[Array]:
        spec, entries = self.header.spec, length + 1
        lead = spec.frame_stack - 1

        def part(name: str, more: int = 0) -> Array:
            return arrays[name][start : start + entries + more, None]

        action = np.zeros((entries, 1, *spec.action.shape), spec.action.dtype)
        action[:length, 0] = arrays["action"][start : start + length]
        reward = part("reward")
        return Unroll(
            observation={
                key: part(f"observation/{key}", lead if key == OBSERVATION else 0) for key in spec.observation
            },
            reward=reward,
            team_reward=reward,
            enemy_reward=np.zeros_like(reward),
            terminated=part("terminated"),
            truncated=part("truncated"),
            life_lost=part("life_lost"),
            on_turn=np.ones((entries, 1), np.bool_),
            foreign=np.zeros((entries, 1), np.bool_),
            action=action,
            policy_outputs={
                key: np.zeros((entries, 1, *each.shape), each.dtype) for key, each in policy_outputs.items()
            },
            core_state=tuple(np.zeros((1, *shape), np.float32) for shape in core_shapes),
            previous_action=arrays["action"][start - 1 : start].copy() if start else spec.action.none(1),
            first=np.array([start == 0]),
            task_id=np.zeros(1, np.int64),
            slot=np.array([self.index], np.int64),
            policy_version=np.array([DEMONSTRATION_VERSION], np.int64),
            start=np.array([start], np.int64),
            weight=np.ones(1, np.float32),
        )


def write_episode(folder: Path, header: EpisodeHeader, arrays: Mapping[str, Array]) -> Path:
    """Write an episode into the folder of a set, under the number after the last, in one step.

    Args:
        folder: made where it is not there.
        header: of the episode.
        arrays: see ``EpisodeHeader.arrays``, and those of the pictures; in any memory layout.

    Raises:
        ValueError: an array is missing, or is not what the header says.
        RunFailedError: the disk is full or refuses.
    """
    for name, expected in header.arrays().items():
        array = arrays.get(name)
        if array is None or not expected.holds(array.shape, array.dtype.name):
            found = "missing" if array is None else f"{array.dtype}{list(array.shape)}"
            raise ValueError(f"array {name!r} is {found}, expected {expected.dtype}{list(expected.shape)}")
    path = folder / f"{next_number(folder):06d}{SUFFIX}"
    write_or_refuse(path, packed(_plain(header), arrays), "episode")
    return path


def next_number(folder: Path) -> int:
    """The number of the next episode of a set."""
    names = (path.stem for path in folder.glob(f"*{SUFFIX}"))
    return max((int(name) for name in names if re.fullmatch(r"\d{1,18}", name)), default=-1) + 1


def _plain(header: EpisodeHeader) -> dict[str, Any]:
    return header.model_dump(mode="json")


def _check_arrays(header: EpisodeHeader, container: Container) -> None:
    """Raises ContainerError where arrays and header do not fit together."""
    for name, expected in header.arrays().items():
        found = container.arrays.get(name)
        if found is None or not expected.holds(found.shape, found.dtype):
            what = "missing" if found is None else f"{found.dtype}{list(found.shape)}"
            raise ContainerError(f"array {name!r} is {what}, expected {expected.dtype}{list(expected.shape)}")
    if header.picture_shape is None:
        return
    blocks, ends = (container.arrays.get(f"pictures/{name}") for name in ("blocks", "ends"))
    num_blocks = -(-(header.length + 1) // PER_BLOCK)
    if blocks is None or ends is None or not ends.num_bytes == 8 * num_blocks:
        raise ContainerError(f"pictures are missing, or are not {header.length + 1}")
