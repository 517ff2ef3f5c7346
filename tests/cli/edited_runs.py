"""Runs whose copies are edited, and commands on them in this process, with a deadline."""

from __future__ import annotations

import contextlib
import io
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml
from commands import SMALL_NET, TINY
from edits import read_yaml

from machina.cli.main import main

HANGS_S = 60


class Outcome(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


@contextlib.contextmanager
def deadline() -> Iterator[None]:
    """A command that hangs fails."""

    def hangs(*_: object) -> None:
        raise AssertionError(f"no answer in {HANGS_S} s")

    former = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(HANGS_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


def run(*arguments: str | Path) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    with deadline(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Outcome(code, out.getvalue(), err.getvalue())


def train(folder: Path, *arguments: str) -> Path:
    done = run("train", *arguments, *TINY, "--runs-dir", folder, "--log-seconds", "1e-9")
    assert done.code == 0, done
    return folder / arguments[arguments.index("--name") + 1]


class Originals(NamedTuple):
    """Good runs and where their edited copies go."""

    plain: Path
    """Of 40 updates, with evaluations; may learn 2 more."""
    other: Path
    """The same with another seed."""
    league: Path
    copies: Path


def trained_originals(folder: Path) -> Originals:
    """Train them in ``folder``."""
    often = ("--total-frames", "200", "--checkpoint-minutes", "1e-9", "--eval-every", "80", "--eval-episodes", "2")
    catch = ("impala", "catch", *SMALL_NET, "--envs-per-task", "4", *often)
    plain = train(folder, *catch, "--name", "plain")
    train(folder, *catch, "--seed", "2", "--name", "other")
    batch = ("--config", "defaults", "--torso", "mlp", "--hidden-sizes", "8", "--minibatches", "2", "--epochs", "1")
    schedule = ("--snapshot-updates", "4", "--rating-games", "2", "--total-frames", "200", "--envs-per-task", "4")
    game = ("ppo", "connect_four", *batch, *schedule, "--checkpoint-minutes", "1e-9")
    league = train(folder, *game, "--name", "league")
    for each in (plain, league):  # something to continue for
        config = read_yaml(each / "config.yaml")
        config["total_frames"] += 40
        (each / "config.yaml").write_text(yaml.safe_dump(config))
    return Originals(plain, folder / "other", league, folder / "copies")


@contextlib.contextmanager
def edited_copy(original: Path, copies: Path) -> Iterator[Path]:
    """A copy to edit, gone afterwards."""
    copy = copies / original.name
    shutil.copytree(original, copy)
    try:
        yield copy
    finally:
        shutil.rmtree(copies / original.name)


def newest(path: Path) -> Path:
    return sorted(each for each in (path / "checkpoints").iterdir() if each.is_dir())[-1]
