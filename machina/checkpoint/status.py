"""``status.json``: how a run is doing, written by it every second and shown by `machina status`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, model_validator

from machina.checkpoint.typed import ROW, Amount, Count, Real, SavedFile


class NodeStatus(NamedTuple):
    """A machine of the run."""

    name: str
    cpus: Amount
    gpus: Amount


class ActorStatus(NamedTuple):
    """How one actor is doing."""

    number: Count
    node: str
    """Address of the machine where it runs."""
    state: str
    """starting, collecting, waiting or gone."""
    slots: Count
    restarts: Count
    heard_s: Real
    """Seconds since it was last heard of."""
    env_steps: Count
    """That it handed over."""
    env_steps_per_s: Real
    """Mean since its start."""


def steady_clock() -> tuple[str, float]:
    """Which start of this machine, and seconds since; the same for all its processes, and never set."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # no Linux
        boot = ""
    return boot, time.monotonic()


class Status(SavedFile):
    """How a run does."""

    time: Amount = Field(description="When it was written, in seconds since 1970.")
    boot: str = Field(description="Which start of the machine `since_boot_s` counts from.")
    since_boot_s: Amount = Field(description="When it was written, by a clock that is never set.")
    pid: Count = Field(description="The process that trains.")
    ended: str | None = Field(description="Why the run ended; None while it continues.")
    env_steps: Count
    updates: Count
    account: dict[str, Count] = Field(
        min_length=2, description="What became of all unrolls; the first number is the sum of the others."
    )
    policy_lag_mean: Real | None = Field(description="In updates; None before the first one.")
    policy_lag_max: Real | None
    env_steps_per_s: Real
    faults: Count = Field(description="Environments and actors that failed.")
    learner_ranks: Count
    learner_restarts: Count
    nodes: tuple[Annotated[NodeStatus, ROW], ...]
    actors: tuple[Annotated[ActorStatus, ROW], ...]

    @property
    def age_s(self) -> float | None:
        """Seconds since it was written; None if it was before this machine started."""
        boot, now = steady_clock()
        return max(0.0, now - self.since_boot_s) if boot == self.boot else None

    @model_validator(mode="after")
    def _account_adds_up(self) -> Status:
        whole, *terms = self.account.values()
        if whole != sum(terms):
            raise ValueError(f"account={self.account} does not add up")
        return self

    @model_validator(mode="after")
    def _both_lags_or_none(self) -> Status:
        if (self.policy_lag_mean is None) != (self.policy_lag_max is None):
            raise ValueError(f"policy_lag_mean={self.policy_lag_mean}, policy_lag_max={self.policy_lag_max}")
        return self
