"""Programs that use a cluster, as processes of their own, and what is left of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE_S = 200

LISTENING = "0A"
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same in IPv6, and ::1, as the kernel writes them."""


@contextmanager
def empty_home() -> Iterator[Path]:
    """A home without a token."""
    home = Path(tempfile.mkdtemp(prefix="ray"))
    yield home
    shutil.rmtree(home, ignore_errors=True)


def run_driver(program: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program with a home and environment variables of its own; RAY_AUTH_MODE is unset unless given."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(home), "RAY_TMPDIR": str(home), "PYTHONPATH": str(Path(__file__).parent), **variables}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def processes_of(home: Path) -> list[int]:
    """Processes that were started with this home, except the one that asks."""
    mark = f"HOME={home}\0".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            is_zombie = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue  # gone meanwhile, or not ours
        if mark in environment and not is_zombie and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def open_ports(processes: list[int]) -> tuple[int, int]:
    """How many sockets these processes listen on, and on how many of them other machines can reach them."""
    sockets = set()
    for process in processes:
        for handle in Path(f"/proc/{process}/fd").glob("*"):
            try:
                sockets.add(os.readlink(handle))
            except OSError:
                continue
    places = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and f"socket:[{fields[9]}]" in sockets:
                places.append(fields[1].partition(":")[0])
    return len(places), sum(place not in LOOPBACK for place in places)
