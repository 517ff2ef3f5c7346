"""Speed of this checkout against another one, or of one job against another, in turns on one machine.

    git worktree add /tmp/before HEAD~1
    python benchmarks/in_turns.py /tmp/before impala pong --seconds 30 --pairs 5 --options="--config defaults"
    python benchmarks/in_turns.py . pqn pong --other-algorithm ppo --options="--epochs 2" --other-options="--epochs 4"

Each window is a run of ``machina train`` in that checkout; its speed is that of ``metrics.jsonl``, env steps that were
learned from per second of wall time, after the first third of the window. Which checkout goes first alternates, so
that a machine that slows down favours neither. The last line is the median of the pairs' ratios: above 1, this
checkout is faster.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from checkouts import THIS, checkout_at, in_turns
from pydantic import BaseModel, Field
from refusals import refusing
from tyro.conf import Positional

from machina.cli.options import parse

WARM_UP = 1 / 3


class Options(BaseModel):
    """Compare two checkouts or two jobs."""

    other: Positional[Path] = Field(description="Root of the other checkout.")
    algorithm: Positional[str] = "impala"
    environment: Positional[str] = "pong"
    seconds: float = Field(default=30, gt=0, description="Length of each window, in seconds, warm-up included.")
    pairs: int = Field(default=5, ge=1, description="Windows of each checkout.")
    options: str = Field(default="", description="Of `machina train`, as one word.")
    other_algorithm: str | None = Field(default=None, description="What the other checkout trains; None: the same.")
    other_options: str | None = Field(default=None, description="Of the other checkout's command; None: the same.")


def main() -> None:
    options = parse(Options, sys.argv[1:], "benchmarks/in_turns.py")
    other_algorithm = options.other_algorithm or options.algorithm
    other_options = options.options if options.other_options is None else options.other_options
    rest = (options.environment, options.seconds)
    turns = in_turns(
        functools.partial(window, checkout_at(options.other), other_algorithm, other_options, *rest),
        functools.partial(window, THIS, options.algorithm, options.options, *rest),
        options.pairs,
    )
    print(f"{'other':>8} {'this':>8} {'ratio':>6}", flush=True)
    ratios = []
    for other, this in turns:
        ratios.append(this / other)
        print(f"{other:8,.0f} {this:8,.0f} {ratios[-1]:6.3f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.3f}")


def window(root: Path, algorithm: str, train_options: str, environment: str, seconds: float) -> float:
    """Env steps per second that a run of the checkout learns from.

    Raises:
        SystemExit: the run failed, or wrote too few metrics to compare.
    """
    with tempfile.TemporaryDirectory() as runs:
        command = [sys.executable, "-m", "machina", "train", algorithm, environment]
        command += ["--minutes", str(seconds / 60), "--log-seconds", "0.5", "--runs-dir", runs, "--name", "run"]
        done = subprocess.run(
            [*command, *train_options.split()],
            cwd=runs,
            env={**os.environ, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
        )
        file = Path(runs) / "run" / "metrics.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    lines = [line for line in lines if line["wall_s"] >= WARM_UP * seconds]
    if len(lines) < 2:
        sys.exit(f"no speed of '{root}': {done.stderr[-2000:] or done.stdout[-2000:]}")
    return float((lines[-1]["env_steps"] - lines[0]["env_steps"]) / (lines[-1]["wall_s"] - lines[0]["wall_s"]))


if __name__ == "__main__":
    refusing(main)
