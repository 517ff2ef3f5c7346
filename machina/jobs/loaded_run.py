"""A run's policy, as the commands that look at runs load it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from machina.checkpoint import Checkpoint, Latest, RunDirectory
from machina.checkpoint.run_directory import load_from
from machina.errors import UserError, nearest
from machina.interfaces import Policy
from machina.launch.configuration import config_for_acting
from machina.launch.plan import RunPlan, plan_run
from machina.launch.saved_state import own_state


class LoadedRun(NamedTuple):
    """A run's policy and what it belongs to."""

    policy: Policy
    plan: RunPlan
    run: RunDirectory
    checkpoint: Checkpoint


def load_run(path: Path, best: bool = False) -> LoadedRun:
    """The policy of a run's latest checkpoint, or of its best one.

    Raises:
        UserError: no run, no good checkpoint, or no best one.
    """
    run = RunDirectory.open(path)
    plan = plan_run(config_for_acting(run.path))
    if best:
        named = run.best()
        if named is None:
            raise UserError(f"run '{path}' has no best checkpoint: it was trained without --eval-every, or it is gone")
        checkpoint = checked(load_from(run.checkpoint_path(named.step)))
    else:
        checkpoint = checked(run.latest())
    own_state(checkpoint, plan.config, plan.spec)
    policy = plan.make_policy(explores=False)
    policy.load_tensors(checkpoint.tensors["model"])
    return LoadedRun(policy, plan, run, checkpoint)


def checked(latest: Latest) -> Checkpoint:
    """The checkpoint, after a line on stderr for each bad one that was passed over."""
    for warning in latest.warnings:
        print(f"machina: {warning}", file=sys.stderr)
    return latest.checkpoint


def task_index(name: str, tasks: Sequence[str]) -> int:
    """Where a task stands among a run's.

    Raises:
        UserError: the run has no such task; names the nearest.
    """
    if name not in tasks:
        raise UserError(f"the run has no task {name!r}{nearest(name, tasks) or '; it has ' + ', '.join(tasks)}")
    return tasks.index(name)
