"""Of several tasks: priorities in units of each task's own errors."""

from __future__ import annotations

import numpy as np

from machina.types import Array, FloatArray, IntArray

REMEMBERED = 100
"""Batches over which a task's errors are averaged."""


class ErrorScales:
    """The mean size of each task's latest errors. Priorities are errors divided by it.

    Otherwise the task with the largest rewards would have the largest errors, and almost all that is drawn.

    Args:
        num_tasks: a single one has the scale 1 always.
    """

    def __init__(self, num_tasks: int) -> None:
        self.values: FloatArray = np.ones(num_tasks, np.float32)
        """``[num_tasks]``, above 0."""
        self._batches = np.zeros(num_tasks, np.float32)

    def note(self, task_ids: IntArray, errors: Array) -> None:
        """Take in the errors ``[k]`` of a batch's items; those that are not finite say nothing."""
        if len(self.values) == 1:
            return
        sizes = np.abs(errors)
        for task in np.unique(task_ids[np.isfinite(sizes)]).tolist():
            mean = float(sizes[(task_ids == task) & np.isfinite(sizes)].mean())
            if mean > 0:
                self._batches[task] = min(REMEMBERED, self._batches[task] + 1)
                self.values[task] += (mean - self.values[task]) / self._batches[task]

    def state(self) -> Array:
        """``[2, num_tasks]``."""
        return np.stack([self.values, self._batches])

    def load_state(self, state: Array) -> None:
        """Continue from ``state``."""
        self.values, self._batches = state[0].copy(), state[1].copy()
