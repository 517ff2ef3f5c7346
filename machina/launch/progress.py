"""The counters of a run, and its speeds over an interval."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

from machina.metrics import time_fractions


class Progress(NamedTuple):
    """Counters that a checkpoint carries."""

    env_steps: int = 0
    """Env steps learned from."""
    updates: int = 0
    elapsed_s: float = 0.0
    """Training time of all sessions, evaluations included."""
    next_evaluation: int = 0
    """In frames."""
    unrolls_lost: int = 0
    """Unrolls that waited for the learner, or were being filled, when a session ended; never learned from."""
    env_steps_cut: int = 0
    """Env steps of unrolls cut short when an environment was replaced."""
    faults: int = 0

    def fault_metrics(self) -> dict[str, float]:
        """What was replaced, cut short and lost."""
        return {
            "faults/replaced": self.faults,
            "faults/env_steps_cut": self.env_steps_cut,
            "faults/unrolls_lost": self.unrolls_lost,
        }


class Speeds(NamedTuple):
    """Rates and time shares over an interval."""

    env_steps_per_s: float = 0.0
    updates_per_s: float = 0.0
    shares: dict[str, float] = {}  # noqa: RUF012 (a NamedTuple's default is never changed)

    def metrics(self, frames_per_step: int) -> dict[str, float]:
        """As a line of the metrics has them."""
        return {
            "speed/env_steps_per_s": self.env_steps_per_s,
            "speed/frames_per_s": self.env_steps_per_s * frames_per_step,
            "speed/updates_per_s": self.updates_per_s,
            **{f"time/{name}": share for name, share in self.shares.items()},
        }


class Meter:
    """Measures speeds between calls of ``restart``."""

    def __init__(self) -> None:
        self._started: float | None = None

    def restart(self, progress: Progress, seconds: dict[str, float]) -> None:
        """Begin an interval now."""
        self._started = time.monotonic()
        self._progress = progress
        self._seconds = seconds

    @property
    def age_s(self) -> float:
        """Length of the interval so far; 0 before the first one."""
        return 0.0 if self._started is None else time.monotonic() - self._started

    def speeds(self, progress: Progress, seconds: dict[str, float]) -> Speeds:
        """Since the interval began."""
        age = self.age_s
        if age <= 0:
            return Speeds()
        return Speeds(
            (progress.env_steps - self._progress.env_steps) / age,
            (progress.updates - self._progress.updates) / age,
            time_fractions(seconds, self._seconds),
        )


class Means:
    """Means of the metrics of the updates since the last reading."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    @property
    def empty(self) -> bool:
        """Whether no update was counted since the last reading."""
        return not self._values

    def add(self, metrics: dict[str, float]) -> None:
        """Count one update; one that was skipped has fewer metrics."""
        for name, value in metrics.items():
            self._values.setdefault(name, []).append(value)

    def take(self) -> dict[str, float]:
        """The means of what is finite, NaN where nothing is, and start again; empty without an update."""
        means = {}
        for name, values in self._values.items():
            finite = [value for value in values if math.isfinite(value)]
            means[name] = math.fsum(finite) / len(finite) if finite else math.nan
        self._values = {}
        return means


def account_metrics(account: dict[str, int], means: dict[str, float]) -> dict[str, float]:
    """The buffer's account, and the updates' ``means`` with how often each collected step was learned from."""
    kind = "queue" if "queued" in account else "replay"
    values: dict[str, float] = {f"{kind}/{name}": count for name, count in account.items()}
    if (
        "learner/passes" in means and "learned" in account
    ):  # sample reuse: what the optimizer took for each collected step (arXiv 1912.06680)
        settled = account["learned"] + account["dropped"]
        values["learner/sample_reuse"] = means["learner/passes"] * account["learned"] / max(1, settled)
    return values | means
