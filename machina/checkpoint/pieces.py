"""Large parts of a checkpoint that are files of their own: several checkpoints share those that did not change."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np
from pydantic import Field

from machina.checkpoint.files import free_space, sync, write_synced
from machina.checkpoint.store import STATE, CheckpointError, checkpoint_paths
from machina.checkpoint.typed import Count, SavedFile
from machina.errors import UserError, in_one_line
from machina.types import Array

PIECES = "replay"
"""The folder of a run that holds them, and the key of ``state.json`` that lists them."""

_REMEDY = "remove that checkpoint to continue from the one before"


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
        self._written: dict[str, tuple[int, Piece]] = {}
        """By part, what is on the disk of it, and its version."""

    def write(self, part: str, version: int | None, read: Callable[[], Mapping[str, Array]]) -> Piece:
        """The file of a part, written unless there is one of this version.

        Args:
            part: its name.
            version: None always writes.
            read: its arrays.

        Raises:
            CheckpointError: the disk is full or refuses.
        """
        known = self._written.get(part)
        if known is not None and known[0] == version and (self._folder / known[1].file).is_file():
            return known[1]
        from safetensors.numpy import save

        content = save({name: np.ascontiguousarray(array) for name, array in read().items()})
        piece = Piece(
            part=part,
            file=f"{part}-{secrets.token_hex(6)}.safetensors",
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
                "the last good checkpoint is untouched"
            ) from error
        if version is not None:
            self._written[part] = (version, piece)
        return piece

    def read(self, piece: Piece) -> dict[str, Array]:
        """The arrays of a piece.

        Raises:
            UserError: the file is missing, or not the one that was written.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        file = self._folder / piece.file
        try:
            content = file.read_bytes()
        except OSError as error:
            what = "is missing" if isinstance(error, FileNotFoundError) else f"can't be read: {error.strerror}"
            raise UserError(f"replay file '{file}' {what}; {_REMEDY}") from error
        if len(content) != piece.size or hashlib.sha256(content).hexdigest() != piece.sha256:
            raise UserError(f"replay file '{file}' was changed after it was written: its checksum differs; {_REMEDY}")
        try:
            arrays: dict[str, Array] = load(content)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"replay file '{file}' can't be read: {in_one_line(error)}; {_REMEDY}") from error
        return arrays

    def remove_unlisted(self, new: Collection[Piece]) -> None:
        """Remove the files that neither ``new`` nor any checkpoint of the run lists."""
        listed = {piece.file for piece in new}
        for checkpoint in checkpoint_paths(self._checkpoints):
            try:
                values = json.loads((checkpoint / STATE).read_bytes())
                listed |= {str(piece["file"]) for piece in values[PIECES] or ()}
            except (OSError, ValueError, KeyError, TypeError):
                continue  # a damaged checkpoint can't be continued from
        if self._folder.is_dir():
            for file in self._folder.iterdir():
                if file.name not in listed:
                    file.unlink(missing_ok=True)
