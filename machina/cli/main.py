"""Entry point: finds the command, turns refusals into one line and an exit code."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import warnings
from contextlib import suppress

from machina.errors import EnvironmentFaultError, RunFailedError, UserError, nearest, out_of_memory
from machina.processes import RUN_MARK, end_started_by, new_mark

COMMANDS = {
    "train": "train a policy: machina train impala_popart atari57",
    "league": "train a policy against itself and its past selves: machina league connect_four",
    "resume": "continue a run: machina resume runs/NAME",
    "eval": "score a run on fresh environments: machina eval runs/NAME --episodes 30",
    "match": "a fair match between runs, snapshots, scripted players: machina match runs/NAME one_ply",
    "watch": "film an episode or a game (mp4): machina watch runs/NAME",
    "record": "record episodes of a person, a policy or a script: machina record CartPole-v1 --out DEMOS",
    "replay": "play a recorded episode back, in a window or as mp4: machina replay DEMOS --episode 3",
    "demos": "list, import or export recorded episodes: machina demos info DEMOS",
    "plot": "draw learning curves and scores (png): machina plot runs/NAME…",
    "report": "curves and scores of a run on one page; of a league also a film: machina report runs/NAME",
    "status": "nodes, actors, queue and faults of a running job: machina status runs/NAME",
    "scale": "change the actors of a running job (place ray): machina scale runs/NAME --actors 200",
    "inspect": "list what a run or a checkpoint holds: machina inspect runs/NAME",
    "list": "algorithms, environments and configurations, one line each",
    "doctor": "what this machine offers, and its measured limit: machina doctor impala pong",
}
"""Command to its one line; the module is ``machina.cli.<command>_command``."""


ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a command with all that its environments started."""


class _EndedError(BaseException):
    """A signal ended the command. No SystemExit: that is caught where environments, which may raise it, are called."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _end(number: int, _: object) -> None:
    raise _EndedError(number)


def usage() -> str:
    """What ``machina --help`` prints."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:{width}}  {line}" for name, line in COMMANDS.items())
    return (
        "usage: machina COMMAND [OPTIONS]\n\n"
        "Train, watch and score reinforcement-learning policies.\n\n"
        f"{rows}\n\n"
        "`machina COMMAND --help` lists a command's options; `machina train ALGORITHM ENVIRONMENT --help`\n"
        "lists every hyper-parameter with its meaning."
    )


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 when it succeeded, 1 for a run that failed, 2 for bad input.
    """
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _failed(str(error), 2)
    except (RunFailedError, EnvironmentFaultError) as error:
        return _failed(str(error), 1)
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a disk that is full or refuses, wherever it strikes
        where = f": '{error.filename}'" if error.filename else ""
        return _failed(f"{error.strerror or error}{where}", 1)
    except (MemoryError, RuntimeError) as error:  # more than machina.launch.sizes could forecast
        reason = out_of_memory(error)
        if not reason:
            raise
        return _failed(reason, 1)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except _EndedError as ended:
        return 128 + ended.number


def _failed(message: str, code: int) -> int:
    with suppress(OSError):  # its reader may be gone, its disk full
        print(f"machina: {message}", file=sys.stderr)
    return code


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        from machina import __version__

        print(f"machina {__version__}")
        return 0
    command, *rest = arguments
    # gymnasium prints the traceback of an environment that raised in a worker; we name it in one line.
    warnings.filterwarnings("ignore", ".*ERROR: ", module="gymnasium")
    if command not in COMMANDS:
        raise UserError(f"unknown command {command!r}{nearest(command, COMMANDS) or '; see machina --help'}")
    try:
        return int(importlib.import_module(f"machina.cli.{command}_command").run(rest))
    except SystemExit as stop:  # a command's --help, or rich when the reader of our output went away
        return 0 if isinstance(stop.__context__, BrokenPipeError) else int(stop.code or 0)


def console() -> None:
    """The ``machina`` script."""
    os.environ[RUN_MARK] = mark = new_mark()
    # A command that is ended closes its environments; while it trains, it saves first.
    ending = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]  # as SIGHUP is below nohup
    for number in ending:
        signal.signal(number, _end)
    # What a destructor raises is of no consequence, and Python would print its traceback.
    sys.unraisablehook = lambda _: None
    # Python's helper process gives back the semaphores of workers that were cut off as they started, and would say so.
    sys.warnoptions.append("ignore::UserWarning:multiprocessing.resource_tracker")
    code = main()
    for number in ending:
        signal.signal(number, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # what could not be written was reported
            stream.flush()
    # The semaphores of closed worker processes are given back by their finalizers, which _exit does not run.
    gc.collect()
    # What environments started and did not end, be it because they hang.
    end_started_by([os.getpid()], RUN_MARK, [mark])
    # Environment threads that hang in native code can't be joined; everything is saved by now.
    os._exit(code)
