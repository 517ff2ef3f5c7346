"""Memory of a run on a Ray cluster over time: driver, actors, learner, object store.

``python benchmarks/soak.py --minutes 30 --picture docs/pictures/soak.png`` trains Pong with two actors and prints, for
each kind of process, the memory after the warm-up and how much it drifted until the end.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pydantic import BaseModel, Field
from refusals import refusing

from machina.cli.options import parse

SAMPLE_S = 10.0
KINDS = {"driver": "machina train", "actors": "ray::ActorProcess", "learner": "ray::RankWorker"}
"""Name to what the command lines of its processes hold."""


class SoakOptions(BaseModel):
    """Train under load and watch the memory."""

    minutes: float = Field(default=30.0, gt=0, description="Length of the run.")
    warm_up_minutes: float = Field(default=5.0, gt=0, description="What comes before is not compared.")
    seed: int = Field(default=1, ge=0, description="Of the run.")
    picture: Path | None = Field(default=None, description="Where the curves are drawn (png).")
    runs_dir: Path | None = Field(default=None, description="Folder for the run; None takes a temporary one.")


def main() -> None:
    """Run, sample, print, draw."""
    options = parse(SoakOptions, sys.argv[1:], "soak.py")
    runs_dir = options.runs_dir or Path(tempfile.mkdtemp())
    command = f"train impala pong --place ray --actors 2 --minutes {options.minutes} --seed {options.seed} --name soak"
    started = time.monotonic()
    with subprocess.Popen(
        [str(Path(sys.executable).with_name("machina")), *command.split(), "--runs-dir", str(runs_dir)]
    ) as run:
        rows: list[tuple[float, dict[str, float]]] = []
        while run.poll() is None:
            rows.append(((time.monotonic() - started) / 60, memory(run.pid)))
            time.sleep(SAMPLE_S)
    for name, (before, after) in drifts(rows, options.warm_up_minutes).items():
        print(f"{name:12} {before:8.1f} MiB, {100 * (after / before - 1):+.2f} %")
    if options.picture is not None:
        draw(rows, options.picture)


def family(pid: int) -> set[int]:
    """A process and all its descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in parentheses may hold spaces.
            parents[int(stat.parent.name)] = int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except OSError:
            continue
    members = {pid}
    while more := {child for child, parent in parents.items() if parent in members} - members:
        members |= more
    return members


def memory(driver: int) -> dict[str, float]:
    """MiB by kind of process: what is their own, without shared pages; and what the object store holds."""
    sizes = dict.fromkeys([*KINDS, "object store"], 0.0)
    for process in (Path("/proc", str(pid)) for pid in family(driver)):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            rollup = (process / "smaps_rollup").read_text(encoding="ascii")
        except OSError:  # it has ended, or is not ours
            continue
        fields = {row.split(":")[0]: float(row.split()[1]) / 1024 for row in rollup.splitlines()[1:]}
        sizes["object store"] += fields["Pss_Shmem"]  # each page counts once, shared out over those who touched it
        for kind, mark in KINDS.items():
            if mark in line:
                sizes[kind] += fields["Pss_Anon"]
    return sizes


def drifts(rows: list[tuple[float, dict[str, float]]], warm_up: float) -> dict[str, tuple[float, float]]:
    """Medians of the first and of the last fifth of what follows the warm-up."""
    settled = [sizes for minute, sizes in rows if minute > warm_up and sizes["learner"] > 0]
    fifth = max(1, len(settled) // 5)
    return {
        kind: (
            statistics.median(sizes[kind] for sizes in settled[:fifth]),
            statistics.median(sizes[kind] for sizes in settled[-fifth:]),
        )
        for kind in settled[0]
    }


def draw(rows: list[tuple[float, dict[str, float]]], file: Path) -> None:
    """Memory over time, one line per kind of process."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for kind in rows[0][1]:
        axes.plot([minute for minute, _ in rows], [sizes[kind] for _, sizes in rows], label=kind)
    axes.set(xlabel="minutes", ylabel="MiB", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="center right", frameon=False)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    refusing(main)
