"""What this machine offers, and the numbers of threads that follow from it."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

# glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3


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


def keep_freed_memory() -> None:
    """Make the C library keep large freed blocks for the next allocation, in this process.

    The learner allocates the same hundred megabytes at every update; by default glibc gives them back
    each time and the kernel clears every page again (measured: 9 % of an update on the shallow net).
    Other C libraries have no such knob, and need none.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


def resident_memory() -> int:
    """Bytes of memory that this process holds, worker processes not included."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
