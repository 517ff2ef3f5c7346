"""Publication of parameters from the learner to the actors."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple


class PublishedParameters(NamedTuple):
    """One version of the parameters; never changed after publication."""

    policy_version: int
    """Number of learner updates that made them."""
    flat: Any
    """All parameters as one float32 vector; with ``--place ray`` a reference to it."""
    done: float
    """Share of the run that lies behind, which exploration may go by."""
    publication: int
    """From 0; when learner ranks are lost, what they last made is published again under its old version."""
    opponents: Any = None
    """What actors draw their opponents from; None where they meet nobody but themselves."""


class ParameterStore:
    """Holds the latest published parameters. A reader never sees half a version."""

    def __init__(self) -> None:
        self._latest: PublishedParameters | None = None
        self._publications = 0
        self._opponents: Any = None
        self._changed = threading.Condition()

    def publish(self, policy_version: int, flat: Any, done: float) -> None:
        """Make a new version visible; ``flat`` belongs to the store from now on."""
        with self._changed:
            self._latest = PublishedParameters(policy_version, flat, done, self._publications, self._opponents)
            self._publications += 1
            self._changed.notify_all()

    def set_opponents(self, opponents: Any) -> None:
        """Publish with the parameters, from now on, whom actors may play against; never changed afterwards."""
        with self._changed:
            self._opponents = opponents
            if self._latest is not None:
                self._latest = self._latest._replace(opponents=opponents)

    def count_up_to(self, publications: int) -> None:
        """Count the newest version as if it had been published this many times; wakes those that wait for it."""
        with self._changed:
            self._publications = max(self._publications, publications)
            self._changed.notify_all()

    def latest(self) -> PublishedParameters:
        """The newest version; the learner publishes once before any actor starts."""
        with self._changed:
            if self._latest is None:
                raise RuntimeError("no parameters were published yet")
            return self._latest

    @property
    def publications(self) -> int:
        """How many versions were published so far."""
        with self._changed:
            return self._publications

    def wait_for(self, publications: int, timeout_s: float) -> PublishedParameters | None:
        """The newest version once this many were published, or None after ``timeout_s``."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._publications >= publications, timeout_s):
                return None
        return self.latest()
