"""What this machine offers, and the numbers of threads that follow from it."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

# glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3

ACTOR_NICENESS = 10
"""Added to the niceness of an actor's threads beside a learner (nice(2)); 19 was no faster, 5 slower."""


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


def yield_to_learner() -> None:
    """Lower the priority of this thread, an actor's, and of the threads that it starts.

    For a learner of several threads: those of one operation wait for each other, so when an actor takes the core of
    one, all stand. PPO on Pong gained a fifth. Beside a learner of one thread it costs (docs/benchmarks.md).
    """
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + ACTOR_NICENESS)


def resident_memory() -> int:
    """Bytes of memory that this process holds, worker processes not included."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
