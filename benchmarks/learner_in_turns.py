"""CPU time of one update on one core, of this checkout against another one, in turns.

    git worktree add /tmp/before HEAD~1
    python benchmarks/learner_in_turns.py /tmp/before impala pong --pairs 5

CPU time, so that another job on the machine disturbs little; a random batch of the configuration's size, in float32.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

from checkouts import THIS, checkout_at, in_turns
from pydantic import BaseModel, Field
from refusals import refusing
from tyro.conf import Positional

from machina.cli.options import parse

UPDATES = """
import statistics, sys, time
from machina.hardware import tune_process
from machina.jobs.ceiling import random_batch
from machina.launch.configuration import job_config
from machina.launch.plan import plan_run
from machina.learner.sums import SINGLE_RANK

algorithm, environment, configuration, seconds = sys.argv[1:]
plan = plan_run(job_config(algorithm, environment, configuration or None)[0])
tune_process(learner_threads=1)
learner = plan.algorithm.make_learner(plan.spec, plan.machine.device, "float32", 0, SINGLE_RANK)
batch = random_batch(plan)
learner.update(batch, 0.0)
times, end = [], time.perf_counter() + float(seconds)
while time.perf_counter() < end:
    started = time.process_time()
    learner.update(batch, 0.0)
    times.append(time.process_time() - started)
print(1000 * statistics.median(times))
"""


class Options(BaseModel):
    """Compare the learners of two checkouts."""

    other: Positional[Path] = Field(description="Root of the other checkout.")
    algorithm: Positional[str] = "impala"
    environment: Positional[str] = "pong"
    configuration: str = Field(default="", description="Instead of the job's own, as in defaults.")
    seconds: float = Field(default=5, gt=0, description="Length of each window, in seconds.")
    pairs: int = Field(default=5, ge=1, description="Windows of each checkout.")


def main() -> None:
    options = parse(Options, sys.argv[1:], "benchmarks/learner_in_turns.py")
    other_root = checkout_at(options.other)
    print(f"{'other ms':>9} {'this ms':>9} {'times as fast':>14}", flush=True)
    ratios = []
    for other, this in in_turns(lambda: window(other_root, options), lambda: window(THIS, options), options.pairs):
        ratios.append(other / this)
        print(f"{other:9.1f} {this:9.1f} {ratios[-1]:14.3f}", flush=True)
    print(f"median {statistics.median(ratios):.3f}")


def window(root: Path, options: Options) -> float:
    """Milliseconds of CPU time per update, the median.

    Raises:
        SystemExit: the other checkout could not do it.
    """
    job = [options.algorithm, options.environment, options.configuration, str(options.seconds)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", UPDATES, *job], cwd=root, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"no update of '{root}': {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout)


if __name__ == "__main__":
    refusing(main)
