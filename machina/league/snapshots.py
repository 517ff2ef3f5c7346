"""Snapshots on the disk: written once, checked at every load."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from machina.checkpoint.files import write_or_refuse
from machina.checkpoint.store import check_finite
from machina.errors import UserError, in_one_line
from machina.interfaces import Policy
from machina.league.pool import Snapshot

if TYPE_CHECKING:
    from torch import Tensor

_PARAMETERS = "parameters"
_HASH_DIGITS = 12
_REMEDY = "restore it from a copy"


class SnapshotStore:
    """A folder with one safetensors file per snapshot.

    A file's name ends with the hash of its content, so a good file is never overwritten: a run that continues from
    before a snapshot and makes another one at the same update writes another file.

    Args:
        folder: made with the first snapshot.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def file(self, snapshot: Snapshot) -> Path:
        """Where a snapshot lies."""
        return self._folder / f"{snapshot.name}-{snapshot.sha256[:_HASH_DIGITS]}.safetensors"

    def save(self, updates: int, env_steps: int, parameters: Tensor) -> Snapshot:
        """Write a snapshot ``u<updates>``.

        Args:
            updates: of the learner.
            env_steps: of the run.
            parameters: flat float32 vector; only its values are kept.

        Raises:
            RunFailedError: the disk is full or refuses.
        """
        import safetensors.torch

        flat = parameters.detach().cpu().contiguous()
        snapshot = Snapshot(f"u{updates:06d}", updates, env_steps, sha256(flat))
        file = self.file(snapshot)
        if file.exists():
            with suppress(UserError):  # a damaged one is written again
                self.load(snapshot)
                return snapshot
        write_or_refuse(file, safetensors.torch.save({_PARAMETERS: flat}), "snapshot")
        return snapshot

    def load(self, snapshot: Snapshot) -> Tensor:
        """The snapshot's flat float32 vector, a new one at every call.

        Raises:
            UserError: the file is missing or its content is not what was saved.
        """
        import safetensors.torch
        from safetensors import SafetensorError

        file = self.file(snapshot)
        try:
            flat = safetensors.torch.load(file.read_bytes())[_PARAMETERS]
            found = sha256(flat)
        except OSError as error:
            raise UserError(f"snapshot '{file}' can't be read: {error.strerror}; {_REMEDY}") from error
        except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise UserError(f"snapshot '{file}' is damaged: {in_one_line(error)}; {_REMEDY}") from error
        if found != snapshot.sha256:
            raise UserError(f"snapshot '{file}' is damaged: its parameters are not those that were saved; {_REMEDY}")
        check_finite(f"snapshot '{file}'", flat, _REMEDY)
        return flat

    def load_into(self, policy: Policy, snapshot: Snapshot) -> None:
        """Give a policy the snapshot's parameters.

        Raises:
            UserError: see ``load``, or they are of another network.
        """
        parameters = self.load(snapshot)
        try:
            policy.load_parameters(parameters, done=1.0)
        except ValueError as error:
            raise UserError(f"snapshot '{self.file(snapshot)}' is of another network: {error}; {_REMEDY}") from error


def sha256(parameters: Tensor) -> str:
    """Hash of a CPU vector's values.

    Raises:
        ValueError: it is no flat float32 vector.
    """
    if str(parameters.dtype) != "torch.float32" or parameters.ndim != 1:
        raise ValueError(f"parameters are {parameters.dtype} {tuple(parameters.shape)}, not a flat float32 vector")
    return hashlib.sha256(parameters.numpy().tobytes()).hexdigest()
