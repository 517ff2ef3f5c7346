"""The errors that reach a user, each as one line."""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. The message names the field, the value and the remedy; the command exits with 2."""


class RunFailedError(Exception):
    """A run that had to stop. The message names the cause; the command exits with 1.

    Args:
        message: one line.
        details: the Python stack of what raised, for the run's log of faults; empty where the message says it all.
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class EnvironmentFaultError(Exception):
    """An environment raised, returned NaN or a wrong shape, or did not return in time.

    The actor replaces the environment; after ``max_restarts`` it stops the run with this message.

    Args:
        message: one line that names the environment.
        details: the Python stack of what hangs or raised, most recent call last; empty for what did neither.
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class RanksBrokenError(Exception):
    """A learner rank lost the others: one is dead or did not answer in time. The ranks have to start again."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A hint such as ``; did you mean 'pong'?``, or nothing when no known name is close."""
    by_lower = {each.lower(): each for each in known}
    matches = [by_lower[each] for each in difflib.get_close_matches(name.lower(), list(by_lower), n=count, cutoff=0.6)]
    if not matches:
        return ""
    return "; did you mean " + " or ".join(repr(match) for match in matches) + "?"


RAISED = (Exception, SystemExit)
"""What code that is not ours may raise: a sys.exit in it must not end the run."""


def in_one_line(error: BaseException) -> str:
    """An error of code that is not ours in one line: ``RuntimeError: the engine stalled``."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def out_of_memory(error: BaseException) -> str:
    """What could not be had and what to do, in one line; empty for an error that is none of memory.

    PyTorch raises a RuntimeError when memory runs out, with pages of advice.
    """
    text = str(error).strip().partition("\n")[0]
    if not isinstance(error, MemoryError) and not (isinstance(error, RuntimeError) and _NO_MEMORY.search(text)):
        return ""
    size = _TRIED.search(text)
    where = "GPU memory" if "CUDA" in text or "CUBLAS" in text else "memory"
    what = f"{size.group(1)} could not be had" if size else text or "no more could be had"
    return f"out of {where}: {what}; use a smaller --batch-size, --unroll-length or network, or fewer --envs-per-task"


_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|CUBLAS_STATUS_ALLOC_FAILED", re.IGNORECASE)
_TRIED = re.compile(r"(?:tried|unable) to allocate ([\d.,]+ \w+)", re.IGNORECASE)


def stopped(what: str, error: BaseException) -> RunFailedError:
    """The end of a run by an unforeseen error: ``the learner stopped: ValueError: ...``, with its stack."""
    reason = out_of_memory(error) or in_one_line(error)
    return RunFailedError(f"{what} stopped: {reason}", "".join(traceback.format_exception(error)))


def in_one_line_with_place(error: BaseException, module: str) -> str:
    """``in_one_line``, and the last line of a user's code that led to it: ``KeyError: 'left' (/home/me/mine.py:12)``.

    Args:
        error: as caught.
        module: a module of the user's code; its whole package counts as that.
    """
    package = module.partition(".")[0]
    places = [
        f" ({frame.f_code.co_filename}:{line})"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package
    ]
    return in_one_line(error) + (places[-1] if places else "")


def environment_fault(name: str, waiting_for: str, call: str, error: BaseException) -> EnvironmentFaultError:
    """What an environment raised, with the line of the user's code and the stack.

    Args:
        name: of the environment, such as ``module:Env-v0``.
        waiting_for: what was called, for the message.
        call: ``reset`` or ``step``.
        error: as caught.
    """
    details = "".join(traceback.format_exception(error))
    return EnvironmentFaultError(
        f"environment {waiting_for!r}: {call} raised {in_one_line_with_place(error, name.partition(':')[0])}", details
    )


def endless(name: str, steps: int) -> EnvironmentFaultError:
    """An episode that is to be played to its end has none.

    Args:
        name: of the environment.
        steps: env steps that were waited for it.
    """
    return EnvironmentFaultError(
        f"environment {name!r}: an episode did not end in {steps:,} env steps; give it a limit: --max-steps, or "
        "one of its own"
    )
