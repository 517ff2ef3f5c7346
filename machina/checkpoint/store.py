"""Checkpoints: a folder per step with safetensors, ``state.json`` and a manifest of checksums.

A checkpoint is written into a hidden folder beside its final place, synced, then renamed, so a folder
with a step for a name is always complete. What a crash leaves behind is hidden and removed by the next save.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from machina.checkpoint.files import free_space, sync, write_synced
from machina.config import one_line
from machina.errors import RunFailedError, UserError
from machina.types import Array

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINTS = "checkpoints"
MANIFEST = "manifest.json"
STATE = "state.json"
FORMAT_VERSION = 1

# 12 digits hold 10^12 env steps, 350 times the 57-game schedule; names then sort as numbers do.
_DIGITS = 12
_PARTIAL = ".partial-"
_REPLACED = ".replaced-"


class CheckpointError(RunFailedError):
    """A checkpoint could not be written; everything saved before it is untouched."""


class FileEntry(BaseModel):
    """What the manifest knows of one file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0, description="Bytes.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Checksum of the content.")


class Manifest(BaseModel):
    """``manifest.json``: the files of a checkpoint with their checksums."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = Field(description="Version of the checkpoint format.")
    step: int = Field(ge=0, description="Env steps at which the checkpoint was taken.")
    files: dict[str, FileEntry] = Field(description="Every file of the checkpoint except the manifest.")


class Checkpoint(NamedTuple):
    """A loaded checkpoint."""

    tensors: dict[str, dict[str, Tensor]]
    """File stem ("model", "optimizer", ...) to named CPU tensors."""
    values: dict[str, Any]
    """The content of ``state.json``."""
    path: Path
    step: int
    """In env steps."""


class Latest(NamedTuple):
    """The last good checkpoint of a run and one line for each bad one passed over."""

    checkpoint: Checkpoint
    warnings: list[str]


class TensorRow(NamedTuple):
    """One line of ``machina inspect``."""

    file: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor | Array]],
    values: Mapping[str, Any],
) -> Path:
    """Write a checkpoint into ``folder/<step>``; one that exists for this step is replaced.

    Args:
        folder: The run's ``checkpoints`` folder.
        step: Env steps.
        tensors: File stem to named tensors or arrays, of any shape and device.
        values: What JSON can hold; tuples come back as lists, keys as strings.

    Raises:
        CheckpointError: the disk is full or refuses; all former checkpoints are untouched.
    """
    target = folder / f"{step:0{_DIGITS}d}"
    partial = folder / f"{_PARTIAL}{target.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clean_leftovers(folder)
        partial.mkdir()
        _write_files(partial, step, tensors, values)
        _put_in_place(partial, target)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint at env step {step} could not be written to '{folder}': "
            f"{error.strerror or error} ({free_space(folder)}); former checkpoints are untouched"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint folder, checking every file against the manifest.

    Raises:
        UserError: the folder or a file is missing, truncated, edited or of another format version.
    """
    import safetensors.torch
    from safetensors import SafetensorError

    manifest = _read_manifest(path)
    tensors: dict[str, dict[str, Tensor]] = {}
    values: dict[str, Any] | None = None
    for name, entry in manifest.files.items():
        file = path / name
        content = _read_checked(file, entry)
        try:
            if name == STATE:
                values = json.loads(content)
            else:
                tensors[file.stem] = safetensors.torch.load(content)
        except (ValueError, SafetensorError) as error:
            raise UserError(f"checkpoint file '{file}' can't be read: {error}; use another checkpoint") from error
    if not isinstance(values, dict):
        raise UserError(f"checkpoint '{path}' has no {STATE} with named values; use another checkpoint")
    return Checkpoint(tensors, values, path, manifest.step)


def latest_checkpoint(run_dir: Path) -> Latest:
    """Load the last good checkpoint of a run; bad ones are passed over and named.

    Raises:
        UserError: the run has no good checkpoint.
    """
    warnings: list[str] = []
    for path in reversed(checkpoint_paths(run_dir / CHECKPOINTS)):
        try:
            return Latest(load_checkpoint(path), warnings)
        except UserError as error:
            warnings.append(f"{error}; passed over")
    reason = "; ".join(warnings) if warnings else "it stopped before its first one; delete it, then train again"
    raise UserError(f"run '{run_dir}' has no usable checkpoint: {reason}")


def checkpoint_paths(folder: Path) -> list[Path]:
    """The checkpoints in ``folder`` by ascending step; hidden leftovers are not among them."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir()), key=_step_of)


def prune(folder: Path, newest: Path, keep_last: int, keep: Collection[Path] = ()) -> None:
    """Remove checkpoints older than the ``keep_last`` that end with ``newest``, except those in ``keep``.

    Call it when ``newest`` is complete. Checkpoints beyond ``newest`` (bad ones that a resume passed over)
    do not count, so that they never push out good ones.
    """
    older = [path for path in checkpoint_paths(folder) if _step_of(path) < _step_of(newest)]
    kept = {path.name for path in keep}
    for path in older[: max(0, len(older) - (keep_last - 1))]:
        if path.name not in kept:
            # Hidden first: a crash halfway must not leave half a checkpoint under its name.
            shutil.rmtree(path.rename(path.with_name(f"{_PARTIAL}{path.name}")), ignore_errors=True)


def inspect_checkpoint(checkpoint: Checkpoint) -> list[TensorRow]:
    """Every tensor of a checkpoint with its shape, dtype and size."""
    return [
        TensorRow(
            file=f"{stem}.safetensors",
            name=name,
            shape=tuple(tensor.shape),
            dtype=str(tensor.dtype).removeprefix("torch."),
            num_bytes=tensor.numel() * tensor.element_size(),
        )
        for stem, group in checkpoint.tensors.items()
        for name, tensor in group.items()
    ]


def _step_of(path: Path) -> int:
    return int(path.name)


def _write_files(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor | Array]], values: Mapping[str, Any]
) -> None:
    import safetensors.torch

    files: dict[str, FileEntry] = {}

    def write(name: str, content: bytes) -> None:
        write_synced(folder / name, content)
        files[name] = FileEntry(size=len(content), sha256=hashlib.sha256(content).hexdigest())

    for stem, group in tensors.items():
        own = {name: _own_tensor(value) for name, value in group.items()}
        write(f"{stem}.safetensors", safetensors.torch.save(own))
    write(STATE, json.dumps(values, indent=1).encode())
    manifest = Manifest(format_version=FORMAT_VERSION, step=step, files=files)
    write_synced(folder / MANIFEST, manifest.model_dump_json(indent=1).encode())
    sync(folder)


def _own_tensor(value: Tensor | Array) -> Tensor:
    """A contiguous CPU copy: safetensors refuses strided tensors and those that share memory."""
    import torch

    if not isinstance(value, torch.Tensor):
        return torch.from_numpy(np.array(value, order="C"))
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _put_in_place(partial: Path, target: Path) -> None:
    aside = target.with_name(f"{_REPLACED}{target.name}")
    if target.exists():
        target.rename(aside)
    partial.rename(target)
    sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _clean_leftovers(folder: Path) -> None:
    """Undo what a crash in the middle of a save left behind."""
    for path in folder.glob(f"{_PARTIAL}*"):
        shutil.rmtree(path)
    for path in folder.glob(f"{_REPLACED}*"):
        target = path.with_name(path.name.removeprefix(_REPLACED))
        if target.exists():
            shutil.rmtree(path)
        else:
            path.rename(target)


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    remedy = "use another checkpoint"
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        what = f"has no {MANIFEST}" if path.is_dir() else "does not exist"
        raise UserError(f"checkpoint '{path}' {what}; {remedy}") from error
    except OSError as error:
        raise UserError(f"checkpoint file '{file}' can't be read: {error.strerror}; {remedy}") from error
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise UserError(
            f"{one_line(error, f'checkpoint file {str(file)!r} was truncated or edited')}; {remedy}"
        ) from error
    if manifest.format_version != FORMAT_VERSION:
        raise UserError(
            f"checkpoint '{path}' has format version {manifest.format_version}, this version of machina "
            f"reads {FORMAT_VERSION}; use the version that wrote it"
        )
    for name in manifest.files:
        # The manifest may come from a stranger: it must not lead out of its folder.
        if Path(name).name != name:
            raise UserError(f"checkpoint file '{file}' names '{name}', which is no plain file name; {remedy}")
    return manifest


def _read_checked(file: Path, entry: FileEntry) -> bytes:
    try:
        content = file.read_bytes()
    except OSError as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else f"can't be read: {error.strerror}"
        raise UserError(f"checkpoint file '{file}' {what}; use another checkpoint") from error
    if len(content) < entry.size:
        raise UserError(
            f"checkpoint file '{file}' is truncated: {len(content)} of {entry.size} bytes; use another checkpoint"
        )
    if len(content) > entry.size or hashlib.sha256(content).hexdigest() != entry.sha256:
        raise UserError(
            f"checkpoint file '{file}' was changed after it was written: its checksum differs; use another checkpoint"
        )
    return content
