"""Large parts of a checkpoint that are files of their own: several checkpoints share those that did not change."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from pydantic import Field

from machina.buffers.buffer import PartLostError, ReplayPart
from machina.checkpoint.files import free_space, sync, write_synced
from machina.checkpoint.store import STATE, CheckpointError, checkpoint_paths
from machina.checkpoint.typed import Count, SavedFile
from machina.errors import UserError, in_one_line
from machina.types import Array

PIECES = "replay"
"""The folder of a run that holds them, and the key of ``state.json`` that lists them."""

VisitParts = Callable[[Callable[[ReplayPart], None]], None]
"""See ``machina.buffers.buffer.Buffer.visit_parts``."""

_UNTOUCHED = "the last good checkpoint is untouched"


class Piece(SavedFile):
    """A file of a part, as ``state.json`` knows it."""

    part: str = Field(pattern=r"^[a-z0-9-]{1,100}$", description="Name of the part that it holds.")
    file: str = Field(pattern=r"^[a-z0-9-]{1,100}\.safetensors$")
    size: Count = Field(description="Bytes.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class PieceFolder:
    """The pieces of a run.

    Args:
        run: the run's directory.
    """

    def __init__(self, run: Path) -> None:
        self._folder = run / PIECES
        self._checkpoints = run / "checkpoints"
        self._written: dict[str, tuple[tuple[int, int], Piece]] = {}
        """By part, what was written of it last, and its version."""

    def write(self, visit_parts: VisitParts) -> list[Piece]:
        """The files of all parts; those of parts that did not change since the last call are not written again.

        Raises:
            CheckpointError: the disk is full or refuses, or a part was lost with its holder.
        """
        pieces: list[Piece] = []
        try:
            visit_parts(lambda part: pieces.append(self._written_piece(part)))
        except PartLostError as error:
            raise CheckpointError(f"checkpoint could not be written: {error}; {_UNTOUCHED}") from error
        return pieces

    def _written_piece(self, part: ReplayPart) -> Piece:
        known = self._written.get(part.name)
        if known is not None and known[0] == part.version and (self._folder / known[1].file).is_file():
            return known[1]
        from safetensors.numpy import save

        # Others than contiguous arrays would be written scrambled; ``ascontiguousarray`` gives a number an axis.
        content = save({name: np.asarray(array, order="C") for name, array in part.read().items()})
        piece = Piece(
            part=part.name,
            file=f"{part.name}-{secrets.token_hex(6)}.safetensors",
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        file = self._folder / piece.file
        try:
            self._folder.mkdir(exist_ok=True)
            write_synced(file, content)
            sync(self._folder)
        except OSError as error:
            file.unlink(missing_ok=True)
            raise CheckpointError(
                f"replay file '{file}' could not be written: {error.strerror or error} ({free_space(self._folder)}); "
                f"{_UNTOUCHED}"
            ) from error
        if part.version is not None:
            self._written[part.name] = (part.version, piece)
        return piece

    def read(self, piece: Piece, checkpoint: Path) -> dict[str, Array]:
        """The arrays of a piece of a checkpoint.

        Raises:
            UserError: the file is missing, or not the one that was written.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        file = self._folder / piece.file
        remedy = f"remove '{checkpoint}' to continue from the one before"
        try:
            content = file.read_bytes()
        except OSError as error:
            what = "is missing" if isinstance(error, FileNotFoundError) else f"can't be read: {error.strerror}"
            raise UserError(f"replay file '{file}' {what}; {remedy}") from error
        if len(content) != piece.size or hashlib.sha256(content).hexdigest() != piece.sha256:
            raise UserError(f"replay file '{file}' was changed after it was written: its checksum differs; {remedy}")
        try:
            arrays: dict[str, Array] = load(content)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"replay file '{file}' can't be read: {in_one_line(error)}; {remedy}") from error
        return arrays

    def remove_unlisted(self, *, but_reusable: bool = False) -> None:
        """Remove the files that no checkpoint of the run lists.

        A file that can't be removed stays.

        Args:
            but_reusable: keep those that another ``write`` would not write again.
        """
        if not self._folder.is_dir():
            return
        listed = {piece.file for _, piece in self._written.values()} if but_reusable else set()
        for checkpoint in checkpoint_paths(self._checkpoints):
            try:
                values = json.loads((checkpoint / STATE).read_bytes())
                listed |= {str(piece["file"]) for piece in values[PIECES] or ()}
            except (OSError, ValueError, KeyError, TypeError):
                continue  # a damaged checkpoint can't be continued from
        for file in self._folder.glob("*.safetensors"):
            if file.name not in listed:
                with suppress(OSError):
                    file.unlink()
