"""Speed of this checkout against another one, in turns on one machine.

    git worktree add /tmp/before HEAD~1
    python benchmarks/in_turns.py /tmp/before impala pong --seconds 30 --pairs 5

Each window is a process of its own that learns end to end (``end_to_end`` of that checkout's ``benchmarks/speed.py``),
with the configuration that ``machina train`` would use. Which checkout goes first alternates, so that a machine that
slows down favours neither. The last line is the median of the pairs' ratios: above 1, this checkout is faster.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

from pydantic import BaseModel, Field
from tyro.conf import Positional

from machina.cli.options import parse

WINDOW = """
import sys
import speed
config, _ = speed.job_config(sys.argv[1], sys.argv[2], None)
print(speed.end_to_end(config, speed.build_parts(config), float(sys.argv[3])))
"""


class Options(BaseModel):
    """Compare two checkouts."""

    other: Positional[Path] = Field(description="Root of the other checkout.")
    algorithm: Positional[str] = "impala"
    environment: Positional[str] = "pong"
    seconds: float = Field(default=30, gt=0, description="Length of each window, in seconds.")
    pairs: int = Field(default=5, ge=1, description="Windows of each checkout.")


def main() -> None:
    options = parse(Options, sys.argv[1:], "benchmarks/in_turns.py")
    this = Path(__file__).resolve().parent.parent
    other = options.other.resolve()
    if not (other / "benchmarks" / "speed.py").is_file():
        sys.exit(f"other '{other}' is no checkout with benchmarks/speed.py; give its root")
    print(f"{'other':>8} {'this':>8} {'ratio':>6}", flush=True)
    ratios = []
    for pair in range(options.pairs):
        order = (this, other) if pair % 2 else (other, this)
        speeds = {root: window(root, options) for root in order}
        ratios.append(speeds[this] / speeds[other])
        print(f"{speeds[other]:8,.0f} {speeds[this]:8,.0f} {ratios[-1]:6.3f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.3f}")


def window(root: Path, options: Options) -> float:
    """Env steps per second that the checkout learns from."""
    path = os.pathsep.join([str(root), str(root / "benchmarks")])
    done = subprocess.run(
        [sys.executable, "-c", WINDOW, options.algorithm, options.environment, str(options.seconds)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
