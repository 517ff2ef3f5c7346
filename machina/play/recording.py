"""Plays episodes to their ends and takes them down, whoever chooses the actions."""

from __future__ import annotations

from typing import Protocol

from machina.demonstrations import EpisodeRecorder, Who
from machina.errors import RunFailedError, endless
from machina.interfaces import SlotEnv
from machina.play.acting import ActingPlayer
from machina.types import Array, StepResult


class StoppedError(Exception):
    """The person who plays or watches has had enough."""


class Chooser(Protocol):
    """Who plays the episodes of a recording, and says which are kept."""

    watches: bool
    """Whether ``picture`` is needed."""

    def begin(self) -> None:
        """An episode begins."""
        ...

    def choose(self, entry: StepResult, picture: Array | None, episode: EpisodeRecorder) -> tuple[Array, Who]:
        """The action ``[1, *action.shape]`` on the newest entry, and whose choice it was.

        Args:
            entry: of one slot.
            picture: ``[H, W, 3]`` uint8 of it, where ``watches``, or where pictures are recorded.
            episode: up to this entry.

        Raises:
            StoppedError: the person stops in mid-episode.
        """
        ...

    def keeps(self, picture: Array | None, episode: EpisodeRecorder) -> bool:
        """Whether a finished episode is kept."""
        ...

    @property
    def stopped(self) -> bool:
        """Whether no further episode is wanted."""
        ...

    def close(self) -> None:
        """No further episode is played."""
        ...


class AutomaticChooser:
    """A policy or a script, all of whose episodes are kept.

    Args:
        player: acts for one slot.
        who: it is.
    """

    watches = False
    stopped = False

    def __init__(self, player: ActingPlayer, who: Who) -> None:
        self._player = player
        self._who = who

    def begin(self) -> None:
        """The player forgets the episode before."""
        self._player.reset()

    def choose(self, entry: StepResult, picture: Array | None, episode: EpisodeRecorder) -> tuple[Array, Who]:  # noqa: ARG002
        """What the player does."""
        return self._player.act(entry), self._who

    def keeps(self, picture: Array | None, episode: EpisodeRecorder) -> bool:  # noqa: ARG002
        """Yes."""
        return True

    def close(self) -> None:
        """Nothing is left behind."""


def play_episode(env: SlotEnv, seed: int, chooser: Chooser, *, pictures: bool) -> tuple[EpisodeRecorder, bool]:
    """Play one episode in an environment of one slot.

    Args:
        env: made for video where pictures are needed.
        seed: of the reset.
        chooser: plays.
        pictures: whether they are recorded.

    Returns:
        The episode, and whether it is kept.

    Raises:
        StoppedError: see ``Chooser.choose``; the episode is lost.
        EnvironmentFaultError: the environment fails, or the episode does not end.
        UserError: the environment draws no picture.
        RunFailedError: its pictures change their size.
    """
    entry = env.reset([seed])
    chooser.begin()
    seen = pictures or chooser.watches
    picture = env.render() if seen else None
    recorder = EpisodeRecorder(env.spec, seed, entry, picture if pictures else None)
    while not (entry.terminated[0] or entry.truncated[0]):
        if recorder.length >= env.spec.longest_episode:
            raise endless(env.spec.name, recorder.length)
        action, who = chooser.choose(entry, picture, recorder)
        entry = env.step(action)
        picture = env.render() if seen else None
        try:
            recorder.add(action, who, entry, picture if pictures else None)
        except ValueError as error:
            raise RunFailedError(f"environment {env.spec.name!r}: {error}; record it with --no-pictures") from error
    return recorder, chooser.keeps(picture, recorder)
