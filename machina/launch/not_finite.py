"""What becomes of updates that were skipped because something in them was not finite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from machina.buffers.unrolls import to_arrays
from machina.checkpoint.files import write_or_refuse
from machina.errors import RunFailedError
from machina.types import Array, Unroll

MOST_SKIPPED_UPDATES = 10
"""Updates in a row that may be skipped before the run stops."""


class SkippedUpdates:
    """Counts updates skipped in a row, and ends the run with the last batch saved when there are too many.

    Args:
        folder: where the batch is written.
        skipped_batch: the batch of the update that was skipped last, if it is at hand.
    """

    def __init__(self, folder: Path, skipped_batch: Callable[[], Unroll[Array] | None]) -> None:
        self._folder = folder
        self._skipped_batch = skipped_batch
        self._in_a_row = 0

    def note(self, skipped: bool, env_steps: int) -> None:
        """Take in whether an update was skipped.

        Raises:
            RunFailedError: it was, and so were those before it.
        """
        self._in_a_row = self._in_a_row + 1 if skipped else 0
        if self._in_a_row < MOST_SKIPPED_UPDATES:
            return
        file = self._folder / f"nan-batch-{env_steps}.safetensors"
        where = f"the last batch is in '{file}'"
        batch = self._skipped_batch()
        arrays = {} if batch is None else to_arrays(batch)
        try:
            content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
            write_or_refuse(file, content, "the last batch")
        except RunFailedError as error:
            where = str(error)
        raise RunFailedError(
            f"{MOST_SKIPPED_UPDATES} updates in a row gave NaN or infinity; {where}; try a lower --learning-rate"
        )
