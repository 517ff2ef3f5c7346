"""The run directory ``runs/<name>/``: everything another command needs.

``config.yaml``, ``metrics.jsonl``, TensorBoard events in ``tb/``, ``checkpoints/<env steps>/``, ``videos/``,
``report/``, ``faults.log``, ``status.json``; ``lock``, held by the process that trains; ``scale.json`` while
`machina scale` waits to be heard.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from machina.checkpoint.files import write_atomically, write_or_refuse
from machina.checkpoint.pieces import PIECES, PieceFolder, VisitParts
from machina.checkpoint.status import Status
from machina.checkpoint.store import (
    CHECKPOINTS,
    MANIFEST,
    CheckpointError,
    Latest,
    checkpoint_paths,
    latest_checkpoint,
    load_checkpoint,
    prune,
    remove,
    save_checkpoint,
)
from machina.checkpoint.typed import Count, Real, SavedFile, read_typed
from machina.errors import UserError, nearest
from machina.types import Array

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "config.yaml"
BEST = "best.json"
FAULTS = "faults.log"
STATUS = "status.json"
SCALE = "scale.json"
LOCK = "lock"


class Best(SavedFile):
    """``checkpoints/best.json``: the checkpoint with the best evaluation so far."""

    step: Count = Field(description="Env steps of the checkpoint.")
    score: Real = Field(description="What the evaluation gave it; larger is better.")


class ScaleRequest(SavedFile):
    """``scale.json``: what `machina scale` asks of a running job."""

    actors: Annotated[Count, Field(ge=1)]


class RunExistsError(UserError):
    """A new run has the name of another one."""


class RunDirectory:
    """One run on the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pieces = PieceFolder(path)

    @classmethod
    def create(cls, runs_dir: Path, name: str, config_text: str) -> RunDirectory:
        """Make ``runs_dir/name`` and store the resolved configuration in it.

        Raises:
            RunExistsError: the folder exists.
            UserError: the name is no plain folder name, or the disk refuses.
        """
        if not name or Path(name).name != name or name.startswith("."):
            raise UserError(f"name={name!r}: must be a plain folder name; put the folder into --runs-dir")
        path = runs_dir / name
        run, missing = cls(path), [each for each in path.parents if not os.path.lexists(each)]
        try:
            path.mkdir(parents=True)
            try:
                run.checkpoints.mkdir()
                write_atomically(run.config_file, config_text.encode())
            except BaseException:  # half a run would keep its name from the next one
                shutil.rmtree(path, ignore_errors=True)
                raise
        except FileExistsError as error:
            if not os.path.lexists(path):  # what stands above it is no folder, such as a link that leads nowhere
                raise UserError(
                    f"run directory '{path}' can't be created: '{error.filename}' is not a folder; choose another "
                    "--runs-dir"
                ) from error
            raise RunExistsError(
                f"run directory '{path}' exists already; choose another --name or continue it: machina resume {path}"
            ) from error
        except OSError as error:
            for each in missing:
                with suppress(OSError):
                    each.rmdir()
            raise UserError(
                f"run directory '{path}' can't be created: {error.strerror}; choose another --runs-dir"
            ) from error
        return run

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """An existing run.

        Raises:
            UserError: ``path`` is not a run directory; names what is missing and the nearest run.
        """
        run = cls(path)
        if run.config_file.is_file():
            return run
        if path.is_dir():
            what = f"'{path}' is not a run directory: it has no {CONFIG}"
        elif path.exists():
            what = f"'{path}' is a file, not a run directory"
        else:
            what = f"run directory '{path}' does not exist"
        raise UserError(what + _nearest_run(path))

    def write_config(self, text: str) -> None:
        """Replace the resolved configuration.

        Raises:
            UserError: the disk is full or refuses; the former one stays.
        """
        write_or_refuse(self.config_file, text.encode(), refusal=UserError)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from training in this folder; they would mix up its metrics and checkpoints.

        The system lets go of it when the process ends, however it ends.

        Raises:
            UserError: another process trains here, or the disk refuses.
        """
        try:
            file = (self.path / LOCK).open("w", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"'{self.path / LOCK}' can't be written: {error.strerror}; copy the run elsewhere"
            ) from error
        with file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                # A file system without locks raises something else; there nothing keeps processes apart.
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    raise UserError(
                        f"run '{self.path}' is being trained by another process; stop that one first, or wait for it"
                    ) from error
            yield

    def is_held(self) -> bool | None:
        """Whether another process trains here, whatever the clocks say; None if the file system has no locks.

        Not for the process that trains: closing the file would let go of its lock.
        """
        try:
            with (self.path / LOCK).open("r", encoding="utf-8") as file:
                # struct flock of Linux; asking takes no lock, which could be in the way of a process that resumes.
                asked = struct.pack("hhqqi0q", fcntl.F_WRLCK, 0, 0, 0, 0)
                kind, *_ = struct.unpack("hhqqi0q", fcntl.fcntl(file, fcntl.F_GETLK, asked))
        except FileNotFoundError:
            return False
        except OSError:
            return None
        return bool(kind != fcntl.F_UNLCK)

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.path / CONFIG

    @property
    def checkpoints(self) -> Path:
        """One folder per checkpoint, and ``best.json``."""
        return self.path / CHECKPOINTS

    @property
    def videos(self) -> Path:
        """Written by `machina watch`."""
        return self.path / "videos"

    @property
    def faults_log(self) -> Path:
        """What failed and was replaced, or ended the run, with its stack."""
        return self.path / FAULTS

    @property
    def report(self) -> Path:
        """Evaluations and plots."""
        return self.path / "report"

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor | Array]],
        values: Mapping[str, Any],
        keep_last: int,
        notice: Callable[[str], None] | None = None,
        visit_parts: VisitParts | None = None,
    ) -> Path:
        """Write a checkpoint, then remove those beyond the ``keep_last`` latest; the best one stays.

        On a full disk old ones make room, the oldest first. The best one and the last good one stay in any case: until
        the new one is complete, a run must have something to continue from. Whether it was written or
        not, pieces that no checkpoint lists are removed.

        Args:
            step: env steps.
            tensors: see ``save_checkpoint``.
            values: see there too.
            keep_last: checkpoints.
            notice: called for each checkpoint that made room.
            visit_parts: shows what is kept in pieces; None: nothing is.

        Raises:
            CheckpointError: the disk refuses, or is full without old checkpoints.
        """
        while True:
            try:
                pieces = [] if visit_parts is None else self.pieces.write(visit_parts)
                listed = {PIECES: [piece.model_dump() for piece in pieces]} if pieces else {}
                saved = save_checkpoint(self.checkpoints, step, tensors, {**values, **listed})
                break
            except CheckpointError as error:
                oldest = self._spare_checkpoint() if error.disk_is_full else None
                if oldest is None:
                    self.pieces.remove_unlisted()
                    raise
                remove(oldest)
                self.pieces.remove_unlisted(but_reusable=True)
                if notice is not None:
                    notice(f"the disk is full: checkpoint '{oldest}' made room for that of env step {step}")
        prune(self.checkpoints, saved, keep_last, keep=self._kept())
        self.pieces.remove_unlisted()
        return saved

    def _spare_checkpoint(self) -> Path | None:
        """The oldest checkpoint that a run can do without."""
        try:
            needed = {self.latest().checkpoint.path, *self._kept()}
        except UserError:  # none is good; then none is of use, but somebody may want to repair one
            return None
        return next((path for path in checkpoint_paths(self.checkpoints) if path not in needed), None)

    def _kept(self) -> list[Path]:
        """The best checkpoint, unless its name can't be read."""
        try:
            best = self.best()
        except UserError:
            return []
        return [] if best is None else [self.checkpoint_path(best.step)]

    def log_fault(self, message: str, details: str) -> None:
        """Append a fault to ``faults.log``; a disk that refuses does not stop the run, the message was shown."""
        text = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n{indent(details, '    ')}"
        with suppress(OSError), self.faults_log.open("a", encoding="utf-8") as file:
            file.write(text.rstrip() + "\n")

    def write_status(self, status: Status) -> None:
        """Replace ``status.json``, which `machina status` reads; a disk that refuses keeps the old one."""
        with suppress(OSError):
            write_atomically(self.path / STATUS, status.model_dump_json(indent=1).encode())

    def status(self) -> Status:
        """What a run wrote last of itself.

        Raises:
            UserError: it never wrote anything, or the file is damaged.
        """
        try:
            return read_typed(
                Status, self.path / STATUS, f"a run that continues writes it again: machina resume {self.path}"
            )
        except FileNotFoundError as error:
            raise UserError(f"run '{self.path}' has no {STATUS}: it has not begun to learn") from error

    def request_actors(self, actors: int) -> None:
        """Ask a running job for this many actors; ``take_request`` of that job finds it.

        Raises:
            UserError: the disk refuses.
        """
        write_or_refuse(self.path / SCALE, ScaleRequest(actors=actors).model_dump_json().encode(), refusal=UserError)

    def take_request(self) -> int | None:
        """The number of actors asked for since the last call; None without a request.

        Raises:
            UserError: the file is damaged; it is removed anyway.
        """
        file = self.path / SCALE
        try:
            return read_typed(ScaleRequest, file, "ask again with machina scale").actors
        except FileNotFoundError:
            return None
        finally:
            with suppress(OSError):
                file.unlink()

    def latest(self) -> Latest:
        """The last good checkpoint, see ``latest_checkpoint``."""
        return latest_checkpoint(self.path)

    def best(self) -> Best | None:
        """The best checkpoint that ``mark_best`` named, as long as it is there.

        Raises:
            UserError: the file that names it is damaged.
        """
        try:
            best = read_typed(Best, self.checkpoints / BEST, "remove it; the next evaluation of a run writes it again")
        except FileNotFoundError:
            return None
        return best if self.checkpoint_path(best.step).is_dir() else None

    def mark_best(self, step: int, score: float) -> None:
        """Name the checkpoint at ``step`` the best one; it survives ``save`` from now on.

        Raises:
            CheckpointError: the disk is full or refuses; the former best one stays named.
        """
        best = Best(step=step, score=score).model_dump_json().encode()
        write_or_refuse(self.checkpoints / BEST, best, refusal=CheckpointError)

    def checkpoint_path(self, step: int) -> Path:
        """The checkpoint's folder at ``step``, whether it exists or not."""
        for path in checkpoint_paths(self.checkpoints):
            if int(path.name) == step:
                return path
        return self.checkpoints / str(step)


def load_from(path: Path) -> Latest:
    """The checkpoint that ``path`` means: a checkpoint folder itself, or a run's last good one.

    Raises:
        UserError: ``path`` is neither, or holds no good checkpoint.
    """
    if (path / MANIFEST).exists():
        return Latest(load_checkpoint(path), [])
    return RunDirectory.open(path).latest()


def _nearest_run(path: Path) -> str:
    """Runs in the same folder as ``path``, or in ``runs/`` for a bare name, whose names are close."""
    parent = path.parent if path.parent.is_dir() else Path("runs")
    folders = [parent, Path("runs")] if len(path.parts) == 1 else [parent]
    names = {file.parent.name: file.parent for folder in folders for file in folder.glob(f"*/{CONFIG}")}
    hint = nearest(path.name, names)
    for name, run in names.items():
        hint = hint.replace(repr(name), repr(str(run)))
    return hint or "; give the folder that `machina train` printed"
