"""The errors that reach a user, each as one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. The message names the field, the value and the remedy; the command exits with 2."""


class RunFailedError(Exception):
    """A run that had to stop. The message names the cause; the command exits with 1."""


class EnvironmentFaultError(Exception):
    """An environment raised, answered with NaN or a wrong shape, or did not answer in time.

    The runtime replaces the environment; after ``max_restarts`` it stops the run with this message.
    """


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A hint such as ``; did you mean 'pong'?``, or nothing when no known name is close."""
    matches = difflib.get_close_matches(name, list(known), n=count, cutoff=0.6)
    if not matches:
        return ""
    return "; did you mean " + " or ".join(repr(match) for match in matches) + "?"
