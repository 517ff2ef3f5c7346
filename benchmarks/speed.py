"""End-to-end speed of a job against this machine's ceiling, in one run.

    python benchmarks/speed.py impala pong --seconds 60 --repeats 3
    python benchmarks/speed.py pqn pong --pinned --changes env.envs_per_task=128 algo.minibatches=32

Each repeat measures the parts alone (environment, acting, learning, at the run's own batch sizes) and then the whole,
so that both see the same machine. The ceiling is what the parts give one after the other: with all cores each, in their
best windows, or ``--pinned`` to one core each, times the number of cores; there the median of the windows counts, since
the whole has no best windows either. The table gives every repeat and the median.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from typing import Any

from pydantic import BaseModel, Field
from refusals import refusing
from tyro.conf import Positional

from machina.cli.options import parse
from machina.hardware import tune_process
from machina.jobs.ceiling import Ceiling, measure_ceiling
from machina.launch.configuration import job_config
from machina.launch.learning_loop import LearningLoop
from machina.launch.places import OneMachine
from machina.launch.plan import RunPlan, plan_run

WARM_UP_UPDATES = 10


class Options(BaseModel):
    """Measure parts and whole."""

    algorithm: Positional[str] = "impala"
    environment: Positional[str] = "pong"
    seconds: float = Field(default=60, gt=0, description="Length of each end-to-end window, in seconds.")
    repeats: int = Field(default=3, ge=1, description="Windows.")
    pinned: bool = Field(default=False, description="Parts are measured on one core.")
    changes: tuple[str, ...] = Field(default=(), description="section.option=value, as in runtime.learner_threads=1")


def main() -> None:
    options = parse(Options, sys.argv[1:], "benchmarks/speed.py")
    changes: dict[str, Any] = {}
    for text in options.changes:
        path, value = text.split("=")
        section, name = path.split(".")
        changes.setdefault(section, {})[name] = int(value) if value.isdigit() else value
    # The published settings (batch 32, unroll 20), not the tuned configuration of this environment.
    config, _ = job_config(options.algorithm, options.environment, "defaults", **changes)
    plan = plan_run(config)
    tune_process(plan.machine.learner_threads)
    print(plan.machine.line(), flush=True)
    print(f"{'environment':>11} {'acting':>8} {'learning':>8} {'ceiling':>8} {'whole':>7} {'share':>6}")
    rows = []
    for _ in range(options.repeats):
        seconds = min(10.0, options.seconds / 4)
        parts = on_one_core(plan, seconds) if options.pinned else measure_ceiling(plan, seconds)
        ceiling = parts.serial * (plan.machine.cores if options.pinned else 1)
        whole = end_to_end(plan, options.seconds)
        rows.append((*parts, ceiling, whole, whole / ceiling))
        print_row(rows[-1])
    print("median")
    print_row(tuple(statistics.median(column) for column in zip(*rows, strict=True)))


def print_row(row: tuple[float, ...]) -> None:
    environment, acting, learning, serial, whole, share = row
    print(f"{environment:11,.0f} {acting:8,.0f} {learning:8,.0f} {serial:8,.0f} {whole:7,.0f} {share:6.2f}", flush=True)


def on_one_core(plan: RunPlan, seconds: float) -> Ceiling:
    """The parts, pinned to one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        return measure_ceiling(plan._replace(machine=plan.machine._replace(cores=1)), seconds, statistics.median)
    finally:
        os.sched_setaffinity(0, cores)


def end_to_end(plan: RunPlan, seconds: float) -> float:
    """Env steps per second learned from, after a warm-up of ten updates."""
    tune_process(plan.machine.learner_threads)
    place = OneMachine(plan)
    actors, learners = place.make_actors(), place.make_learners(print, lambda: False)
    loop = LearningLoop(actors, learners, total_env_steps=10**9)
    try:
        loop.begin()
        actors.group.start({})
        while loop.updates < WARM_UP_UPDATES:
            loop.turn(1.0)
        before, started = loop.env_steps, time.perf_counter()
        while time.perf_counter() - started < seconds:
            loop.turn(1.0)
        return (loop.env_steps - before) / (time.perf_counter() - started)
    finally:
        actors.group.close()
        learners.close()


if __name__ == "__main__":
    refusing(main)
