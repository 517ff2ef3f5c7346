"""A person at the keyboard, alone or taking turns with a policy."""

from __future__ import annotations

import time

from machina.demonstrations import EpisodeRecorder, Who
from machina.play.acting import ActingPlayer
from machina.play.key_maps import Keys
from machina.play.recording import StoppedError
from machina.play.window import POLL_S, Pace, Window
from machina.types import Array, StepResult


class PersonChooser:
    """A person plays in a window; implements ``machina.play.recording.Chooser``.

    With a policy or a script it plays first, and Tab takes over and hands back. It is asked at every step, also while
    the person plays, so that its memory is what it would have been had the person's actions been its own.

    Args:
        keys: of the environment.
        title: of the window.
        scale: of the window, see ``Window``.
        steps_per_s: of the game.
        other: a player and who it is, which takes turns with the person; None: the person plays alone.
    """

    watches = True

    def __init__(
        self,
        keys: Keys,
        title: str,
        scale: float | None,
        steps_per_s: float,
        other: tuple[ActingPlayer, Who] | None = None,
    ) -> None:
        self._keys = keys
        self._title = title
        self._scale = scale
        self._steps_per_s = steps_per_s
        self._player: ActingPlayer | None = None
        self._who = Who.PERSON
        if other is not None:
            self._player, self._who = other
        self._person_plays = other is None
        self._window: Window | None = None
        self._pace: Pace | None = None
        self.stopped = False
        """The window was closed when the person was asked about an episode."""

    def begin(self) -> None:
        """The player forgets the episode before."""
        self._keys.begin()
        if self._player is not None:
            self._player.reset()
            self._person_plays = False

    def choose(self, entry: StepResult, picture: Array | None, episode: EpisodeRecorder) -> tuple[Array, Who]:
        """What the keys say, or the player does, when the step is due."""
        assert picture is not None
        window, pace = self._opened(picture)
        action: Array | None = None
        while action is None:
            pressed = pace.wait(picture, self._line(episode))
            for _ in range(pressed.count("tab") if self._player is not None else 0):
                self._person_plays = not self._person_plays
            # A key that went down and up between two steps counts.
            own = self._keys.action(window.held | set(pressed)) if self._person_plays else None
            if self._player is not None and (own is not None or not self._person_plays):
                action = self._player.act(entry, instead=own)
            else:
                action = own
        return action, Who.PERSON if self._person_plays else self._who

    def keeps(self, picture: Array | None, episode: EpisodeRecorder) -> bool:
        """Ask: Enter keeps the episode, Backspace discards it; it is kept where the window is closed or at Ctrl-C."""
        assert picture is not None
        window, _ = self._opened(picture)
        text = f"return {episode.episode_return:g} in {episode.length} steps: Enter keeps it, Backspace discards it"
        try:
            while True:
                window.show(picture, text)
                for key in window.pressed():
                    if key in ("return", "enter", "[enter]", "backspace"):
                        return key != "backspace"
                time.sleep(POLL_S)
        except (StoppedError, KeyboardInterrupt):
            self.stopped = True
            return True

    def close(self) -> None:
        """Close the window."""
        if self._window is not None:
            self._window.close()

    def _opened(self, picture: Array) -> tuple[Window, Pace]:
        """The window, which is as large as the first picture needs."""
        if self._window is None or self._pace is None:
            self._window = Window(self._title, picture, self._scale)
            self._window.check_keys(self._keys.names)
            self._pace = Pace(self._window, self._steps_per_s)
        return self._window, self._pace

    def _line(self, episode: EpisodeRecorder) -> str:
        plays = "person" if self._person_plays else self._who.name.lower()
        hint = "" if self._player is None else "  Tab: " + ("hand back" if self._person_plays else "take over")
        return f"step {episode.length}  return {episode.episode_return:g}  {plays}{hint}"
