"""Speed of the place ``ray`` against ``local``, in turns on the same machine.

    python benchmarks/places.py --seconds 40 --repeats 3

Pong with the published settings: one actor in ``local`` against two actor processes. Then an environment of a
millisecond of pure Python per step: all in one process against two actor processes.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from pydantic import BaseModel, Field
from refusals import refusing

from machina.cli.options import parse
from machina.metrics import read_metrics

RAY = ("--place", "ray", "--actors", "2")
JOBS: dict[str, dict[str, tuple[str, ...]]] = {
    "pong": {"local": ("--place", "local"), "ray": RAY},
    "slow_env:Slow-v0": {
        "one process": ("--place", "inline", "--processes", "False"),
        "ray": (*RAY, "--processes", "False"),
    },
}
"""Environment to the two ways of running it."""


class PlacesOptions(BaseModel):
    """Compare places."""

    seconds: float = Field(default=40.0, gt=10, description="Length of each run, its start not counted.")
    repeats: int = Field(default=3, ge=1, description="Pairs of runs.")


def main() -> None:
    """Run the pairs and print env steps per second and their ratios."""
    options = parse(PlacesOptions, sys.argv[1:], "benchmarks/places.py")
    for environment, ways in JOBS.items():
        ratios = []
        for _ in range(options.repeats):
            first, second = (speed(environment, way, options.seconds) for way in ways.values())
            ratios.append(second / first)
            names = " and ".join(ways)
            print(f"{environment}: {names}: {first:,.0f} and {second:,.0f} env steps/s, {ratios[-1]:.2f}", flush=True)
        print(f"{environment}: median ratio {statistics.median(ratios):.2f}", flush=True)


def speed(environment: str, way: tuple[str, ...], seconds: float) -> float:
    """Median of the run's own figures, every five seconds after the first ten."""
    with tempfile.TemporaryDirectory() as folder:
        machina = str(Path(sys.executable).with_name("machina"))
        job = ("train", "impala", environment, "--config", "defaults", *way, "--runs-dir", folder, "--name", "run")
        until = f"{seconds / 60 + 0.25:.2f}"  # a quarter of a minute to start
        command = (machina, *job, "--minutes", until, "--log-seconds", "5")
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parent, env=os.environ)
        speeds = [line["speed/env_steps_per_s"] for line in read_metrics(Path(folder, "run"))]
    return statistics.median([value for value in speeds if value is not None][2:])


if __name__ == "__main__":
    refusing(main)
