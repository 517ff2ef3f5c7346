"""A folder of recorded episodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from machina.demonstrations.container import ContainerError
from machina.demonstrations.episode import RecordedEpisode
from machina.errors import UserError
from machina.specs import ActionSpec, EnvSpec


class Refusal(NamedTuple):
    """A file of the folder that is no episode, or a damaged one."""

    file: str
    reason: str


class DemonstrationSet(NamedTuple):
    """What a folder of episodes holds."""

    folder: Path
    episodes: tuple[RecordedEpisode, ...]
    """In the order of their files' names."""
    refusals: tuple[Refusal, ...]

    @property
    def seeds(self) -> set[int]:
        """Seeds of the episodes' resets."""
        return {each.header.seed for each in self.episodes if each.header.seed is not None}

    def episode(self, index: int) -> RecordedEpisode:
        """Raises UserError when there is no episode of that number."""
        if not 0 <= index < len(self.episodes):
            raise UserError(f"episode={index}: demonstrations '{self.folder}' have 0 to {len(self.episodes) - 1}")
        return self.episodes[index]


def load_set(folder: Path) -> DemonstrationSet:
    """The episodes of a folder, every byte of which is checked; files whose names begin with a dot are passed over.

    Raises:
        UserError: there is no such folder, it can't be read, or it holds no good episode.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        remedy = "name the folder given to machina record --out"
        raise UserError(f"demonstrations '{folder}' can't be read: {error.strerror}; {remedy}") from error
    episodes: list[RecordedEpisode] = []
    refusals: list[Refusal] = []
    for path in paths:
        try:
            episodes.append(RecordedEpisode.open(path, len(episodes)))
        except ContainerError as error:
            refusals.append(Refusal(path.name, str(error)))
        except OSError as error:
            refusals.append(Refusal(path.name, error.strerror or str(error)))
    if not episodes:
        found = f"; {refusals[0].file}: {refusals[0].reason}" if refusals else ""
        raise UserError(f"demonstrations '{folder}' hold no good episode{found}; make some with machina record")
    return DemonstrationSet(folder, tuple(episodes), tuple(refusals))


def check_suits(demonstrations: DemonstrationSet, spec: EnvSpec) -> None:
    """Refuse episodes that were played in another environment, or in other ways than ``spec`` says.

    Raises:
        UserError: names the first difference and the remedy.
    """
    for episode in demonstrations.episodes:
        for what, theirs, ours in differences(episode.header.spec, spec):
            raise UserError(
                f"demonstrations '{demonstrations.folder}': {what} of {episode.path.name} is {theirs}, here it is "
                f"{ours}; record them again, or use the options that they were recorded with"
            )


def differences(theirs: EnvSpec, ours: EnvSpec) -> Iterator[tuple[str, object, object]]:
    """In what two environments differ that matters to a policy: what it is, and what it is in each."""
    if (theirs.name, theirs.tasks) != (ours.name, ours.tasks):
        yield "the environment", theirs.name, ours.name
    for name in {**theirs.protocol, **ours.protocol}:
        one, other = theirs.protocol.get(name, "not set"), ours.protocol.get(name, "not set")
        if one != other:
            yield f"{name} (protocol)", one, other
    if theirs.action != ours.action:
        yield "the set of actions", _in_words(theirs.action), _in_words(ours.action)
    for key in {**theirs.observation, **ours.observation}:
        shape, our_shape = _shape(theirs, key), _shape(ours, key)
        if shape != our_shape:
            yield f"the observation {key!r}", shape, our_shape
    if theirs.frame_stack != ours.frame_stack:
        yield "frame_stack", theirs.frame_stack, ours.frame_stack


def _shape(spec: EnvSpec, key: str) -> str:
    array = spec.observation.get(key)
    return "absent" if array is None else f"{array.dtype}{list(array.shape)}"


def _in_words(action: ActionSpec) -> str:
    if action.kind == "continuous":
        return f"{len(action.low)} numbers from {list(action.low)} to {list(action.high)}"
    return " x ".join(map(str, action.choices)) + " choices"
