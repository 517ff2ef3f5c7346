"""The command line in this process, and small numbers for it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from machina.cli.main import main

TINY = (
    *("--place", "inline", "--precision", "float32", "--learner-threads", "1", "--actor-threads", "1"),
    *("--env-threads", "1", "--unroll-length", "5", "--batch-size", "4"),
)
"""Options of `machina train` for every environment."""

SMALL_NET = ("--hidden-sizes", "16")
CAN_DRAW_CARTPOLE = find_spec("pygame") is not None
"""gymnasium draws it with pygame, which is no dependency of ours."""
PONG = ("--config", "defaults", "--filters", "8", "8", "8", *SMALL_NET, "--envs-per-task", "2", "--frame-cap", "120")
"""Pong's episodes are cut after 30 env steps."""


class Answer(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


class Command:
    """Runs `machina` in a folder of its own."""

    def __init__(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self._capsys = capsys
        self.folder = folder
        self.runs = folder / "runs"

    def __call__(self, *arguments: str | Path) -> Answer:
        self._capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Answer(code, *self._capsys.readouterr())

    def good(self, *arguments: str | Path) -> str:
        """A command that must succeed; its output."""
        answer = self(*arguments)
        assert answer.code == 0, answer
        assert answer.err == ""
        return answer.out

    def train(self, algorithm: str, environment: str, *options: str | Path, name: str = "run") -> Path:
        """A small run; its directory."""
        self.good("train", algorithm, environment, *TINY, "--runs-dir", self.runs, "--name", name, *options)
        return self.runs / name

    def refused(self, *arguments: str | Path, code: int = 2) -> str:
        """A command that must be refused in one line; the line."""
        answer = self(*arguments)
        assert answer.code == code, answer
        lines = answer.err.splitlines()
        assert len(lines) == 1, answer.err
        assert lines[0].startswith("machina: ")
        return lines[0].removeprefix("machina: ")
