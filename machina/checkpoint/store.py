"""Checkpoints: a folder per step with safetensors, ``state.json`` and a manifest of checksums.

A checkpoint is written into a hidden folder next to its final place, synced, then renamed, so a folder
with a step for a name is always complete. What a crash leaves behind is hidden and removed by the next save.

Every file of a checkpoint carries the same random mark, and the manifest lists every tensor: a file of another
checkpoint, or an edited one, is found out even if its checksum was made to fit.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, Field

from machina.checkpoint.files import free_space, is_full, sync, write_synced
from machina.checkpoint.typed import Count, SavedFile, parsed
from machina.errors import RunFailedError, UserError, in_one_line
from machina.types import Array

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINTS = "checkpoints"
MANIFEST = "manifest.json"
STATE = "state.json"
FORMAT_VERSION = 4
"""3: unrolls that wait hold other arrays, and learners no counter of env steps."""

_MARK = "checkpoint"
"""Key of a checkpoint's mark in its state and in the tensor files' metadata."""

_REMEDY = "use another checkpoint"

# 12 digits hold 10^12 env steps, 350 times the 57-game schedule; names then sort as numbers do.
_DIGITS = 12
_PARTIAL = ".partial-"
_REPLACED = ".replaced-"


class CheckpointError(RunFailedError):
    """A checkpoint could not be written; the last good one is untouched."""

    @property
    def disk_is_full(self) -> bool:
        """Whether room on the disk would have helped."""
        return isinstance(self.__cause__, OSError) and is_full(self.__cause__)


class OtherFormatError(UserError):
    """A checkpoint was written by a version of machina with another format."""


class FileEntry(SavedFile):
    """What the manifest knows of one file."""

    size: Count = Field(description="Bytes.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Checksum of the content.")


class Manifest(SavedFile):
    """``manifest.json``: the files of a checkpoint with their checksums, and their tensors."""

    format_version: int = Field(description="Version of the checkpoint format.")
    checkpoint: str = Field(pattern="^[0-9a-f]{16}$", description="The mark that all files of this checkpoint carry.")
    step: Count = Field(description="Env steps at which the checkpoint was taken.")
    files: dict[str, FileEntry] = Field(description="Every file of the checkpoint except the manifest.")
    tensors: dict[str, dict[str, str]] = Field(description="By file stem and name: ``float32 [16, 50]``.")


class _Version(BaseModel):
    """All that is read of the manifest of another version."""

    format_version: int


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
        CheckpointError: the disk is full or refuses; all the last good checkpoint is untouched.
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
            f"{error.strerror or error} ({free_space(folder)}); the last good checkpoint is untouched"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint folder, checking every file and every tensor against the manifest.

    Raises:
        UserError: the folder or a file is missing, truncated, edited, of another checkpoint or of another format
            version, or holds a number that is not finite.
    """
    manifest = _read_manifest(path)
    tensors: dict[str, dict[str, Tensor]] = {}
    values: dict[str, Any] | None = None
    for name, entry in manifest.files.items():
        file = path / name
        content = _read_checked(file, entry)
        if name == STATE:
            values = _state(file, content, manifest)
        else:
            tensors[file.stem] = _tensors(file, content, manifest)
    if values is None:
        raise UserError(f"checkpoint '{path}' has no {STATE}; {_REMEDY}")
    if missing := manifest.tensors.keys() - tensors.keys():
        raise UserError(f"checkpoint '{path}' has no file of the tensors {sorted(missing)[0]!r}; {_REMEDY}")
    return Checkpoint(tensors, values, path, manifest.step)


def _state(file: Path, content: bytes, manifest: Manifest) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"checkpoint file '{file}' can't be read: {in_one_line(error)}; {_REMEDY}") from error
    if not isinstance(values, dict):
        raise UserError(f"checkpoint file '{file}' holds no named values; {_REMEDY}")
    if values.pop(_MARK, None) != manifest.checkpoint:
        raise UserError(f"checkpoint file '{file}' is of another checkpoint: its key '{_MARK}' differs; {_REMEDY}")
    return values


def _tensors(file: Path, content: bytes, manifest: Manifest) -> dict[str, Tensor]:
    import safetensors.torch
    from safetensors import SafetensorError

    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"checkpoint file '{file}' can't be read: {in_one_line(error)}; {_REMEDY}") from error
    if (header.get("__metadata__") or {}).get(_MARK) != manifest.checkpoint:
        raise UserError(f"checkpoint file '{file}' is of another checkpoint: its mark '{_MARK}' differs; {_REMEDY}")
    listed = manifest.tensors.get(file.stem, {})
    for name in dict.fromkeys([*listed, *tensors]):
        found = _described(tensors[name]) if name in tensors else "absent"
        if found != listed.get(name):
            raise UserError(
                f"checkpoint file '{file}': tensor {name!r} is {found}, it was {listed.get(name, 'not there')} when "
                f"the checkpoint was written; {_REMEDY}"
            )
        check_finite(f"checkpoint file '{file}': tensor {name!r}", tensors[name], _REMEDY)
    return tensors


def check_finite(what: str, tensor: Tensor, remedy: str) -> None:
    """Refuse NaN and infinities.

    Raises:
        UserError: there is one; begins with ``what``, ends with ``remedy``.
    """
    import torch

    if (tensor.is_floating_point() or tensor.is_complex()) and not torch.isfinite(tensor).all():
        raise UserError(f"{what} holds numbers that are not finite; {remedy}")


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def latest_checkpoint(run_dir: Path) -> Latest:
    """Load the last good checkpoint of a run; bad ones are passed over and named.

    Raises:
        UserError: the run has no good checkpoint, or its last one has another format.
    """
    warnings: list[str] = []
    for path in reversed(checkpoint_paths(run_dir / CHECKPOINTS)):
        try:
            return Latest(load_checkpoint(path), warnings)
        except OtherFormatError:  # it is not damaged, and those before it are no newer
            raise
        except UserError as error:
            warnings.append(f"{error}; passed over")
    reason = "; ".join(warnings) if warnings else "it stopped before its first one, or they were removed; train again"
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
            remove(path)


def remove(path: Path) -> None:
    """Remove a checkpoint; hidden first: a crash halfway must not leave half a checkpoint under its name."""
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

    mark = secrets.token_hex(8)
    files: dict[str, FileEntry] = {}
    listed: dict[str, dict[str, str]] = {}

    def write(name: str, content: bytes) -> None:
        write_synced(folder / name, content)
        files[name] = FileEntry(size=len(content), sha256=hashlib.sha256(content).hexdigest())

    for stem, group in tensors.items():
        own = {name: _own_tensor(value) for name, value in group.items()}
        listed[stem] = {name: _described(tensor) for name, tensor in own.items()}
        write(f"{stem}.safetensors", safetensors.torch.save(own, {_MARK: mark}))
    write(STATE, json.dumps({**values, _MARK: mark}, indent=1).encode())
    manifest = Manifest(format_version=FORMAT_VERSION, checkpoint=mark, step=step, files=files, tensors=listed)
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
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        what = f"has no {MANIFEST}" if path.is_dir() else "does not exist"
        raise UserError(f"checkpoint '{path}' {what}; {_REMEDY}") from error
    except OSError as error:
        raise UserError(f"checkpoint file '{file}' can't be read: {error.strerror}; {_REMEDY}") from error
    version = parsed(_Version, content, f"checkpoint file '{file}'", _REMEDY).format_version
    if version != FORMAT_VERSION:
        raise OtherFormatError(
            f"checkpoint '{path}' has format version {version}, this version of machina reads {FORMAT_VERSION}; "
            "use the version of machina that wrote it, or train again"
        )
    manifest = parsed(Manifest, content, f"checkpoint file '{file}'", _REMEDY)
    for name in manifest.files:
        # The manifest may come from a stranger: it must not lead out of its folder.
        if Path(name).name != name or "\0" in name:
            raise UserError(f"checkpoint file '{file}' names {name!r}, which is not a plain file name; {_REMEDY}")
        if name != STATE and Path(name).suffix != ".safetensors":
            raise UserError(f"checkpoint file '{file}' names {name!r}, which is not a file of a checkpoint; {_REMEDY}")
    if path.name.isdecimal() and int(path.name) != manifest.step:
        raise UserError(f"checkpoint file '{file}': step={manifest.step}, but its folder is {path.name}; {_REMEDY}")
    return manifest


def _read_checked(file: Path, entry: FileEntry) -> bytes:
    try:
        content = file.read_bytes()
    except OSError as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else f"can't be read: {error.strerror}"
        raise UserError(f"checkpoint file '{file}' {what}; {_REMEDY}") from error
    if len(content) < entry.size:
        raise UserError(f"checkpoint file '{file}' is truncated: {len(content)} of {entry.size} bytes; {_REMEDY}")
    if len(content) > entry.size or hashlib.sha256(content).hexdigest() != entry.sha256:
        raise UserError(f"checkpoint file '{file}' was changed after it was written: its checksum differs; {_REMEDY}")
    return content
