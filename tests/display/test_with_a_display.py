"""Recording and play-back on a real X server with real key events: `make test-display`, which needs Xvfb."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import STARTED
from Xlib import XK, X
from Xlib.display import Display
from Xlib.ext import xtest

from machina.demonstrations import Who, load_set

pytestmark = pytest.mark.display

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An X server without a screen; its name, such as :3."""
    number = tmp_path_factory.mktemp("xvfb") / "number"
    with number.open("w") as file:
        command = ["Xvfb", "-displayfd", str(file.fileno()), "-screen", "0", "1280x1024x24", "-nolisten", "tcp"]
        process = subprocess.Popen(command, pass_fds=[file.fileno()], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: number.read_text().endswith("\n"), "Xvfb")
        yield f":{number.read_text().strip()}"
    finally:
        process.terminate()
        process.wait()


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """What the condition returns as soon as that counts as true."""
    end = time.monotonic() + DEADLINE_S
    while not (result := condition()):
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.02)
    return result


class Person:
    """Sits at the keyboard of a server, and reads the title of the window."""

    def __init__(self, server: str) -> None:
        self._display = Display(server)
        self.window: Any = None

    def sits_down(self, title: str) -> None:
        """Wait for the window of that title; it gets the keyboard."""
        self.window = wait_for(lambda: self._found(title), f"the window {title!r}")
        self.window.set_input_focus(X.RevertToParent, X.CurrentTime)
        self._display.sync()
        time.sleep(0.2)

    def _found(self, title: str) -> Any:
        for window in self._display.screen().root.query_tree().children:
            if self._title(window).startswith(title) and window.get_attributes().map_state == X.IsViewable:
                return window
        return None

    def _title(self, window: Any) -> str:
        name, kind = (self._display.intern_atom(each) for each in ("_NET_WM_NAME", "UTF8_STRING"))
        stated = window.get_full_property(name, kind)
        return stated.value.decode() if stated else ""

    def reads(self, part: str) -> bool:
        """Whether the title has it."""
        return part in self._title(self.window)

    def steps(self) -> int:
        """That the title states."""
        found = re.search(r"step (\d+)", self._title(self.window))
        return int(found[1]) if found else -1

    def pauses(self) -> None:
        self.tap("p")
        wait_for(lambda: self.reads("paused"), "the pause")

    def makes_a_step(self) -> None:
        """By the key for that; waits until it is made."""
        before = self.steps()
        self.tap("n")
        wait_for(lambda: self.steps() == before + 1, "the step")

    def goes_on_fast(self) -> None:
        """Sixteen times as fast."""
        for _ in range(4):
            self.tap("plus")
        self.tap("p")

    def keeps(self, process: subprocess.Popen[str]) -> list[str]:
        """Press Enter until the command ends, which it does at the end of the episode; what it has printed."""
        end = time.monotonic() + DEADLINE_S
        while process.poll() is None:
            assert time.monotonic() < end, "the command does not end"
            self.tap("Return")
        return output(process)

    def press(self, key: str) -> None:
        self._send(X.KeyPress, key)

    def release(self, key: str) -> None:
        self._send(X.KeyRelease, key)

    def tap(self, key: str) -> None:
        self.press(key)
        time.sleep(0.03)
        self.release(key)
        time.sleep(0.03)

    def closes_the_window(self) -> None:
        """What a window manager's button does."""
        from Xlib.protocol.event import ClientMessage

        protocols, delete = (self._display.intern_atom(name) for name in ("WM_PROTOCOLS", "WM_DELETE_WINDOW"))
        event = ClientMessage(window=self.window, client_type=protocols, data=(32, [delete, X.CurrentTime, 0, 0, 0]))
        self.window.send_event(event)
        self._display.sync()

    def colours(self) -> set[bytes]:
        """Of the window's pixels."""
        size = self.window.get_geometry()
        image = self.window.get_image(0, 0, size.width, size.height, X.ZPixmap, 0xFFFFFFFF)
        return {image.data[position : position + 3] for position in range(0, len(image.data), 4)}

    def _send(self, kind: int, key: str) -> None:
        code = self._display.keysym_to_keycode(XK.string_to_keysym(key))
        xtest.fake_input(self._display, kind, code)
        self._display.sync()


@pytest.fixture
def person(server: str) -> Person:
    return Person(server)


def start(server: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "DISPLAY": server, "PYTHONUNBUFFERED": "1"}
    environment.pop("SDL_VIDEODRIVER", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "machina", *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    STARTED.append(process)
    return process


def output(process: subprocess.Popen[str]) -> list[str]:
    """What a command that ends well has printed."""
    out, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    return out.splitlines()


MOUNTAIN_CAR = "machina record MountainCar-v0"


def test_a_person_pauses_discards_and_keeps(server: str, person: Person, tmp_path: Path) -> None:
    process = start(server, tmp_path, "record", "MountainCar-v0", "--out", "demos", "--episodes", "1")
    person.sits_down(MOUNTAIN_CAR)
    person.pauses()
    before = person.steps()
    assert len(person.colours()) > 3
    time.sleep(1)  # 30 steps, else
    assert person.steps() == before
    person.goes_on_fast()
    wait_for(lambda: person.reads("Enter keeps it, Backspace discards it"), "the end of the episode")
    person.press("Right")
    person.tap("BackSpace")
    (line,) = person.keeps(process)
    person.release("Right")
    assert line == "demos/000000.episode: return -200, 200 steps"
    (episode,) = load_set(tmp_path / "demos").episodes
    arrays = episode.arrays()
    assert set(arrays["action"].tolist()) == {2}  # of the second episode; in the first no key was held
    assert set(arrays["who"].tolist()) == {Who.PERSON}
    assert len(list(episode.pictures())) == 201


def test_a_person_takes_over_from_a_script_and_hands_back(server: str, person: Person, tmp_path: Path) -> None:
    options = ("--out", "demos", "--script", "random", "--person", "--episodes", "1", "--window-scale", "0.5")
    process = start(server, tmp_path, "record", "MountainCar-v0", *options)
    person.sits_down(MOUNTAIN_CAR)
    assert person.window.get_geometry().width == 300
    person.pauses()
    person.makes_a_step()
    first = person.steps()
    person.press("Left")
    person.tap("Tab")
    for _ in range(4):
        person.makes_a_step()
    person.release("Left")
    person.tap("Tab")
    person.goes_on_fast()
    person.keeps(process)
    arrays = load_set(tmp_path / "demos").episodes[0].arrays()
    who = arrays["who"].tolist()
    assert who == [Who.SCRIPT] * first + [Who.PERSON] * 4 + [Who.SCRIPT] * (196 - first)
    assert arrays["action"][first : first + 4].tolist() == [0] * 4


def test_single_steps_with_the_keys_that_are_held(server: str, person: Person, tmp_path: Path) -> None:
    process = start(server, tmp_path, "record", "MountainCar-v0", "--out", "demos", "--episodes", "1")
    person.sits_down(MOUNTAIN_CAR)
    person.pauses()
    first = person.steps()
    for key in ("Left", "Right", "Left"):
        person.press(key)
        person.makes_a_step()
        person.release(key)
        person.makes_a_step()
    person.goes_on_fast()
    person.keeps(process)
    actions = load_set(tmp_path / "demos").episodes[0].arrays()["action"].tolist()
    assert actions == [1] * first + [0, 1, 2, 1, 0, 1] + [1] * (194 - first)


def test_closing_the_window_keeps_what_was_kept(server: str, person: Person, tmp_path: Path) -> None:
    process = start(server, tmp_path, "record", "MountainCar-v0", "--out", "demos")
    person.sits_down(MOUNTAIN_CAR)
    for _ in range(4):
        person.tap("plus")
    wait_for(lambda: person.reads("Enter keeps it"), "the end of the episode")
    person.tap("Return")
    wait_for(lambda: list((tmp_path / "demos").glob("*.episode")), "the first episode")
    person.closes_the_window()
    lines = output(process)
    kept = len(load_set(tmp_path / "demos").episodes)
    # The second episode may have come to its end, and the question, before the window was closed.
    assert lines[kept:] == (["stopped; the unfinished episode is lost, 1 are kept in demos"] if kept == 1 else [])
    assert kept <= 2


def test_atari_by_its_keys(server: str, person: Person, tmp_path: Path) -> None:
    options = ("--frame-cap", "1200", "--noop-max", "0", "--out", "demos", "--episodes", "1")
    process = start(server, tmp_path, "record", "breakout", *options)
    person.sits_down("machina record breakout")
    person.pauses()
    first = person.steps()
    for key in ("space", "Left", "Right"):
        person.press(key)
        person.makes_a_step()
        person.release(key)
    person.goes_on_fast()
    person.keeps(process)
    (episode,) = load_set(tmp_path / "demos").episodes
    assert episode.header.spec.protocol["frame_cap"] == 1200
    actions = episode.arrays()["action"].tolist()
    assert actions == [0] * first + [1, 3, 2] + [0] * (len(actions) - first - 3)  # breakout's fire, left, right


def test_play_back(server: str, person: Person, tmp_path: Path) -> None:
    options = ("--script", "random", "--out", "demos", "--episodes", "1")
    output(start(server, tmp_path, "record", "MountainCar-v0", *options))
    process = start(server, tmp_path, "replay", "demos")
    person.sits_down("machina replay MountainCar-v0: step ")
    person.pauses()
    before = person.steps()
    assert len(person.colours()) > 3
    time.sleep(1)
    assert person.steps() == before
    person.makes_a_step()
    person.goes_on_fast()
    assert output(process) == []
