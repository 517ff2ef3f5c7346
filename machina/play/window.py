"""A window that shows pictures and tells which keys are pressed, by pygame."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable

from machina.errors import UserError, nearest
from machina.play.recording import StoppedError
from machina.types import Array

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
import pygame  # prints an advertisement unless told not to

LARGEST = (960, 720)
"""Width and height that a window is at most enlarged to when no scale is given."""

BAR = 22
"""Height of the line below the picture."""

COMMON_KEYS = ("left", "right", "up", "down", "space", "left shift", "left ctrl", "right shift", "right ctrl")

NO_DISPLAY = ("dummy", "offscreen")
"""SDL's drivers that show nothing; taken only where ``SDL_VIDEODRIVER`` asks for them."""


class Window:
    """A window for pictures of one size.

    Args:
        title: how the window's title begins.
        picture: the first, ``[H, W, 3]`` uint8.
        scale: the picture's size in it; None: as many whole times as fit into ``LARGEST``.

    Raises:
        UserError: there is no display.
    """

    def __init__(self, title: str, picture: Array, scale: float | None) -> None:
        if sys.platform == "linux" and not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"))):
            raise _no_display("DISPLAY is not set")  # SDL would look for others, and complain on stderr
        try:
            pygame.display.init()
        except pygame.error as error:
            raise _no_display(str(error)) from error
        driver = pygame.display.get_driver()
        if driver in NO_DISPLAY and os.environ.get("SDL_VIDEODRIVER") != driver:
            pygame.display.quit()
            raise _no_display(f"only the driver {driver!r} was found")
        pygame.font.init()
        height, width, _ = picture.shape
        times = scale or max(1, min(LARGEST[0] // width, LARGEST[1] // height))
        size = (max(160, round(width * times)), max(1, round(height * times)) + BAR)
        self._screen = pygame.display.set_mode(size, pygame.RESIZABLE)
        self._font = pygame.font.Font(None, 20)
        self._closed = False
        self._title = title
        self.held: set[str] = set()
        """Names of the keys that are down."""

    def check_keys(self, names: Iterable[str]) -> None:
        """Raises UserError for a key that pygame does not know."""
        for name in sorted(names):
            try:
                pygame.key.key_code(name)
            except ValueError as error:
                remedy = nearest(name, COMMON_KEYS) or "; names are those of pygame.key.name"
                raise UserError(f"keys: there is no key {name!r}{remedy}") from error

    def show(self, picture: Array, text: str) -> None:
        """Draw a picture, in proportion, and a line below it, which the window's title has as well."""
        pygame.display.set_caption(f"{self._title}: {text}")
        width, height = self._screen.get_size()
        surface = pygame.image.frombuffer(picture.tobytes(), (picture.shape[1], picture.shape[0]), "RGB")
        times = min(width / picture.shape[1], max(1, height - BAR) / picture.shape[0])
        size = tuple(max(1, round(side * times)) for side in (picture.shape[1], picture.shape[0]))
        self._screen.fill((0, 0, 0))
        self._screen.blit(pygame.transform.scale(surface, size), ((width - size[0]) // 2, 0))
        self._screen.blit(self._font.render(text, True, (220, 220, 220)), (4, height - BAR + 4))
        pygame.display.flip()

    def pressed(self) -> list[str]:
        """Names of the keys that went down since the last call, in order.

        Raises:
            StoppedError: the window was closed.
        """
        names = []
        for event in pygame.event.get():
            if event.type == pygame.QUIT:
                self._closed = True
            elif event.type == pygame.KEYDOWN:
                names.append(pygame.key.name(event.key))
                self.held.add(names[-1])
            elif event.type == pygame.KEYUP:
                self.held.discard(pygame.key.name(event.key))
            elif event.type == pygame.WINDOWFOCUSLOST:  # their KEYUP goes to another window
                self.held.clear()
        if self._closed:
            raise StoppedError
        return names

    def close(self) -> None:
        """Close the window."""
        pygame.display.quit()


POLL_S = 0.005
"""Between two looks at the keyboard."""

SLOWEST, FASTEST = 1 / 16, 64


class Pace:
    """When the next step is due, which the person may change: P pauses, N makes one step, + and - change the speed.

    Args:
        window: is watched for keys.
        steps_per_s: at speed 1.
    """

    def __init__(self, window: Window, steps_per_s: float) -> None:
        self._window = window
        self._interval_s = 1 / steps_per_s
        self._due = time.monotonic()
        self.speed = 1.0
        self.paused = False

    def wait(self, picture: Array, text: str) -> list[str]:
        """Show a picture until the next step is due.

        Args:
            picture: of the newest entry.
            text: below it.

        Returns:
            The names of the keys that were pressed meanwhile, those of the pace apart.

        Raises:
            StoppedError: the window was closed.
        """
        others: list[str] = []
        steps = False
        shown = None
        # One look at least: keys that were pressed while the environment stepped count for this step.
        while True:
            for key in self._window.pressed():
                if key == "n":
                    steps = self.paused = True
                elif not self._changed_by(key):
                    others.append(key)
            now = time.monotonic()
            if steps or (not self.paused and now >= self._due):
                break
            if shown != (state := self._state()):
                self._window.show(picture, f"{text}{state}")
                shown = state
            time.sleep(POLL_S if self.paused else min(POLL_S, max(0.0, self._due - now)))
        if shown is None:
            self._window.show(picture, f"{text}{self._state()}")
        # What is late is not made up for: the person would be overrun.
        self._due = max(self._due + self._interval_s / self.speed, now)
        return others

    def _changed_by(self, key: str) -> bool:
        if key == "p":
            self.paused = not self.paused
            self._due = time.monotonic()
        elif key in ("+", "=", "[+]"):
            self.speed = min(FASTEST, self.speed * 2)
        elif key in ("-", "[-]"):
            self.speed = max(SLOWEST, self.speed / 2)
        else:
            return False
        return True

    def _state(self) -> str:
        speed = "" if self.speed == 1 else f"  speed {self.speed:g}"
        return f"{speed}{'  paused' if self.paused else ''}"


def _no_display(reason: str) -> UserError:
    return UserError(
        f"a window needs a display: {reason}; set DISPLAY, or do without a window (record --policy or --script, "
        "replay --mp4)"
    )
