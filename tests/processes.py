"""`machina` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machina.processes import is_alive

PATIENCE_S = 120.0

STARTED: list[subprocess.Popen[str]] = []
"""Commands of the test under way."""


def start(*arguments: str | Path, cwd: Path, **options: Any) -> subprocess.Popen[str]:
    """Start a command; what it prints is read with ``communicate``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "machina", *map(str, arguments)],
        cwd=cwd,
        env=environment,
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )
    STARTED.append(process)
    return process


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that the process does."""
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def running(argument: str) -> set[int]:
    """Processes with this argument."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if argument.encode() in (folder / "cmdline").read_bytes().split(b"\0") and is_alive(int(folder.name)):
                found.add(int(folder.name))
        except OSError:
            continue
    return found
