"""``import machina``: what the commands do, from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from machina.config import Episodes, Seed, option_paths
from machina.errors import UserError, nearest
from machina.jobs.eval import evaluate_run
from machina.jobs.loaded_run import load_run
from machina.jobs.resume import resume as resume_run
from machina.jobs.train import train as train_run
from machina.launch.arguments import checked
from machina.launch.configuration import job_config
from machina.play.acting import LoadedPolicy
from machina.processes import refuse_second_run
from machina.registry import run_config_type
from machina.report.evaluation import EvaluationResult


class TrainedRun(NamedTuple):
    """A run that stopped."""

    path: Path
    """The run directory; every other function and command takes it."""
    reason: str
    """Why it stopped."""
    env_steps: int
    updates: int


@checked
def train(
    algorithm: str | None = None, environment: str | None = None, config: str | None = None, **options: Any
) -> TrainedRun:
    """Train a policy, as ``machina train`` does.

    Args:
        algorithm: see ``machina list``; None takes it from ``config``.
        environment: see ``machina list``; None takes it from ``config``.
        config: a shipped configuration or a YAML file.
        options: the command's options, with underscores: ``train("impala", "pong", minutes=3, learning_rate=1e-4)``.

    Raises:
        UserError: something is unknown or out of range.
        RunFailedError: the run stopped for a fault; its last checkpoint is good.
    """
    refuse_second_run()
    base, source = job_config(algorithm, environment, config)
    changes: dict[str, Any] = {}
    for name, value in options.items():
        _place(run_config_type(base.algorithm, base.environment), changes, name, value)
    resolved, _ = job_config(base.algorithm, base.environment, config, **changes)
    run, outcome = train_run(resolved, source)
    return TrainedRun(run.path, outcome.reason, outcome.env_steps, outcome.updates)


@checked
def resume(run: str | Path, minutes: float | None = None, total_frames: int | None = None) -> TrainedRun:
    """Continue a run from its last good checkpoint, as ``machina resume`` does.

    Args:
        run: run directory.
        minutes: of this session, and of those after it; None leaves it as it was.
        total_frames: length of the run and its schedules from now on; None leaves it as it was.

    Raises:
        UserError: no such run, no good checkpoint, or a value out of range.
        RunFailedError: the run stopped for a fault; its last checkpoint is good.
    """
    refuse_second_run()
    directory, outcome = resume_run(Path(run), minutes, total_frames)
    return TrainedRun(directory.path, outcome.reason, outcome.env_steps, outcome.updates)


@checked
def evaluate(run: str | Path, episodes: Episodes = 30, seed: Seed = 0) -> EvaluationResult:
    """Score a run with exactly ``episodes`` episodes per task, as ``machina eval`` does.

    Raises:
        UserError: no such run or no good checkpoint, or a value out of range.
        RunFailedError: an environment failed.
    """
    refuse_second_run()
    return evaluate_run(Path(run), episodes, seed=seed)


@checked
def load_policy(run: str | Path, best: bool = False, seed: Seed = 0, task: str | None = None) -> LoadedPolicy:
    """A run's policy with ``reset`` and ``act`` on numpy observations.

    Args:
        run: run directory.
        best: the best checkpoint instead of the latest.
        seed: seeds action sampling.
        task: the task, or the role of a game, that it plays; None where one network plays them all.

    Raises:
        UserError: no such run or task, a value out of range, or each task has a network or a head of its own and
            none is named.
    """
    loaded = load_run(Path(run), best)
    spec = loaded.plan.spec
    network = getattr(loaded.plan.config.algo, "network", None)
    if task is None and getattr(network, "separate_roles", False):
        raise UserError(f"task: each role has its own network; name one of {', '.join(spec.tasks)}")
    if task is None and getattr(network, "task_heads", False) and spec.num_tasks > 1:
        raise UserError(f"task: each task has its own head; name one of {', '.join(spec.tasks)}")
    if task is not None and task not in spec.tasks:
        raise UserError(f"task={task!r}: the run has {', '.join(spec.tasks)}{nearest(task, spec.tasks)}")
    return LoadedPolicy(loaded.policy, spec, seed, 0 if task is None else spec.tasks.index(task))


def _place(model: type[BaseModel], changes: dict[str, Any], name: str, value: Any) -> None:
    """Put an option into the section that has it.

    Raises:
        UserError: no section has it; names the nearest.
    """
    paths = option_paths(model)
    if name not in paths:
        raise UserError(f"unknown option {name!r}{nearest(name, paths)}")
    for section in paths[name]:
        changes = changes.setdefault(section, {})
    changes[name] = value
