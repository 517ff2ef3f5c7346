"""What this machine offers, and the numbers of threads that follow from it."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3

ACTOR_NICENESS = 10
"""Added to the niceness of an actor's threads next to a learner (nice(2)); 19 was no faster, 5 slower."""


def available_cores() -> int:
    """Cores this process may use: its CPU affinity, cut by a cgroup quota if there is one."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    if quota == "max":
        return cores
    return max(1, min(cores, int(quota) // int(period)))


def processor_vendor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """As the kernel names it, ``GenuineIntel`` or ``AuthenticAMD``; empty where it names none, as on ARM."""
    with suppress(OSError):
        for line in cpuinfo.read_text(encoding="ascii", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "vendor_id":
                return value.strip()
    return ""


def tune_process(learner_threads: int) -> None:
    """Settings of this process that make learning on a CPU faster; for the learner's thread, before actors start.

    - Torch's threads.
    - Denormal numbers count as zero. The moments of weights that get no gradient (dead ReLUs) decay into them, and
      then one step of Adam takes 18 ms instead of 0.8 for 700,000 weights. Threads started later inherit this.
    - The C library keeps large freed blocks. The learner allocates the same hundred megabytes at every update; glibc
      gives them back each time and the kernel clears every page again: 9 % of an update on the shallow net. Other C
      libraries have no such knob, and need none.
    """
    import torch

    torch.set_num_threads(learner_threads)
    torch.set_flush_denormal(True)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch's threads for a while, for what acts without a learner.

    PyTorch takes as many as there are cores; for small batches they wait for each other, and with another job for a
    long time: an evaluation took 45 s instead of 4.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def yield_to_learner() -> None:
    """Lower the priority of this thread, an actor's, and of the threads that it starts.

    For a learner of several threads: those of one operation wait for each other, so when an actor takes the core of
    one, all stop. PPO on Pong gained a fifth. With a learner of one thread it costs (docs/benchmarks.md).
    """
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + ACTOR_NICENESS)


def available_memory(cgroups: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> int:
    """Bytes that may still be taken here: the kernel's free memory, cut by the limits of the control groups.

    Args:
        cgroups: where they are mounted; of version 2, or of version 1 with its folder ``memory``.
        proc: where the kernel lists processes.
    """
    lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    try:
        groups = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return free
    for group in groups:
        _, controllers, path = group.split(":", 2)
        root = cgroups / "memory" if "memory" in controllers.split(",") else cgroups
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        if not controllers:
            names = ("memory.max", "memory.current", "inactive_file")
        elif root == cgroups:
            continue
        folder = root / path.lstrip("/")
        for each in (folder, *folder.parents):  # the limits of the groups around it hold as well
            if each == root.parent:
                break
            free = min(free, _left_in_group(each, *names))
    return max(0, free)


def _left_in_group(folder: Path, limit: str, usage: str, reclaimable: str) -> int:
    """Bytes below a control group's limit; file caches that the kernel drops on demand count as free."""
    try:
        allowed = int((folder / limit).read_text(encoding="ascii"))
        used = int((folder / usage).read_text(encoding="ascii"))
        pairs = (line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        return allowed - used + next((int(value) for name, value in pairs if name == reclaimable), 0)
    except (OSError, ValueError):  # no such file, or "max"
        return 2**63


def resident_memory() -> int:
    """Bytes of memory that this process holds, worker processes not included."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
