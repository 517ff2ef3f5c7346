"""`machina eval`: scores of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from machina.errors import UserError
from machina.hardware import torch_threads
from machina.jobs.loaded_run import load_run, task_index
from machina.launch.plan import seed_shared_generators
from machina.play.evaluation import Progress, evaluate
from machina.report.evaluation import EvaluationResult


def evaluate_run(
    path: Path,
    episodes: int = 30,
    games: Sequence[str] = (),
    seed: int = 0,
    best: bool = False,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Score a run; the result is also written to its ``report`` folder.

    Args:
        path: run directory.
        episodes: per task.
        games: tasks to play, one each or joined by commas; empty for all.
        seed: seeds the evaluation.
        best: the best checkpoint instead of the latest.
        progress: called with (episodes finished, episodes in all).

    Raises:
        UserError: no such run, task or checkpoint.
        RunFailedError: an environment failed.
    """
    loaded = load_run(path, best)
    names = loaded.plan.spec.tasks
    seed_shared_generators(loaded.plan.factory, seed)
    chosen = [name for game in games for name in game.split(",")]
    if twice := [game for game in dict.fromkeys(chosen) if chosen.count(game) > 1]:
        raise UserError(f"games: {', '.join(twice)} given more than once")
    with torch_threads(loaded.plan.machine.actor_threads):
        result = evaluate(
            loaded.plan.factory,
            loaded.policy,
            tasks=[task_index(game, names) for game in chosen] or range(len(names)),
            episodes=episodes,
            seed=seed,
            run=str(path),
            env_steps=loaded.checkpoint.step,
            step_timeout_s=loaded.plan.config.runtime.step_timeout_s,
            progress=progress,
        )
    result.save(loaded.run.report)
    return result
