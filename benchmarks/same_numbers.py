"""Does this checkout compute the same numbers as another one?

    git worktree add /tmp/before HEAD~1
    python benchmarks/same_numbers.py /tmp/before

Each job learns for 20 updates in place inline with lock-step, one seed and float32, once in every checkout and in a
process of its own. The hash of every update's unrolls and of the parameters that came of them must be equal; the first
update that differs is named. Both run here, because another processor rounds differently.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pydantic import BaseModel, Field
from refusals import refusing
from tyro.conf import Positional

from machina.cli.options import parse

JOBS = {
    "impala catch": "train impala catch",
    "impala_popart, two tasks, LSTM": "train impala_popart two_scales --lstm-size 32 --config defaults",
    "ppo CartPole-v1": "train ppo CartPole-v1",
    "ppo connect_four, league": "league connect_four --config defaults --snapshot-updates 5 --rating-games 8",
    "ppo HalfCheetah-v5, filter": "train ppo HalfCheetah-v5 --observation-filter --unroll-length 64",
}

FIXED = "--place inline --lock-step --seed 3 --precision float32 --learner-threads 1 --actor-threads 1 --env-threads 1"

RECORD = """
import hashlib, os, sys
import numpy as np
from machina.algorithms.impala.learning import ImpalaLearner
from machina.algorithms.ppo.learning import PPOLearner
from machina.cli.main import main

FIELDS = ("observation", "reward", "team_reward", "enemy_reward", "terminated", "truncated", "life_lost", "on_turn",
    "foreign", "action", "behaviour_logits", "core_state", "previous_action", "first", "task_id", "slot",
    "policy_version")
updates, arguments = int(sys.argv[1]), sys.argv[2:]
seen = 0

def arrays(value):
    if isinstance(value, dict):
        return [array for key in sorted(value) for array in arrays(value[key])]
    return [array for each in value for array in arrays(each)] if isinstance(value, tuple) else [value]

def digest(batch):
    found = hashlib.sha256()
    named = {**batch._asdict(), **batch._asdict().get("policy_outputs", {})}
    for name in FIELDS:
        for array in arrays(named[name]):
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]

def recorded(update):
    def call(learner, batch, *rest):
        global seen
        unrolls = digest(batch)
        answer = update(learner, batch, *rest)
        parameters = hashlib.sha256(learner.flat_parameters().numpy().tobytes()).hexdigest()[:16]
        print("DIGEST", unrolls, parameters, flush=True)
        seen += 1
        if seen == updates:
            os._exit(0)
        return answer
    return call

for learner in (ImpalaLearner, PPOLearner):
    learner.update = recorded(learner.update)
sys.exit(main(arguments))
"""
"""Reads nothing but what both checkouts have: the command line, the learners' names, the fields of an unroll."""


class Options(BaseModel):
    """Compare two checkouts."""

    other: Positional[Path] = Field(description="Root of the other checkout.")
    updates: int = Field(default=20, ge=1, description="Learner updates of each job.")


def main() -> int:
    options = parse(Options, sys.argv[1:], "benchmarks/same_numbers.py")
    this, other = Path(__file__).resolve().parent.parent, options.other.resolve()
    differing = 0
    for name, command in JOBS.items():
        here, there = (digests(root, command, options.updates) for root in (this, other))
        differs = [index + 1 for index, pair in enumerate(zip(here, there, strict=True)) if pair[0] != pair[1]]
        differing += bool(differs)
        verdict = f"differs from update {differs[0]} on" if differs else "equal"
        print(f"{name}: {verdict}; last {' '.join(here[-1])}, other {' '.join(there[-1])}", flush=True)
    return 1 if differing else 0


def digests(root: Path, command: str, updates: int) -> list[tuple[str, str]]:
    """Of the unrolls and of the parameters after each update.

    Raises:
        SystemExit: the job ended early.
    """
    with tempfile.TemporaryDirectory() as runs:
        done = subprocess.run(
            [sys.executable, "-c", RECORD, str(updates), *f"{command} {FIXED} --runs-dir {runs}".split()],
            env={**os.environ, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
        )
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("DIGEST")]
    if len(lines) < updates:
        sys.exit(
            f"{command} in '{root}': {len(lines)} of {updates} updates; {done.stderr[-2000:] or done.stdout[-2000:]}"
        )
    return [(unrolls, parameters) for _, unrolls, parameters in lines]


if __name__ == "__main__":
    refusing(main)
