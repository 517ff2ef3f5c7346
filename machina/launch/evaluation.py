"""Evaluation: its own environments, its own seeds, exactly the episodes asked for.

The one path that scores come from: training with ``--eval-every``, ``machina eval`` and
``machina.evaluate`` all run this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from machina.errors import EnvironmentFaultError, RunFailedError
from machina.interfaces import MOST_SLOTS, EnvFactory, Policy
from machina.launch.acting import ActingPlayer
from machina.launch.deadlines import TimedEnv
from machina.league.matches import PolicyPlayer
from machina.report.evaluation import EvaluationResult
from machina.specs import EnvSpec
from machina.types import IntArray

EVALUATION_STREAM = 3

ABSENT_GAMES = 100
"""An agent that had no step in so many games after one another is taken for one that never plays."""

Progress = Callable[[int, int], None]


def evaluate(
    factory: EnvFactory,
    policy: Policy,
    tasks: Sequence[int],
    episodes: int,
    seed: int,
    run: str,
    env_steps: int,
    step_timeout_s: float = 60.0,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> EvaluationResult:
    """Play ``episodes`` full episodes of every task with the stochastic policy.

    Every slot plays a number of episodes fixed beforehand, so that short episodes are not over-represented.

    Args:
        factory: builds the evaluation's environments.
        policy: parameters loaded; not changed.
        tasks: indices of the tasks to play.
        episodes: per task.
        seed: seeds environments and action sampling.
        run: the run directory, for the result.
        env_steps: age of the parameters, for the result.
        step_timeout_s: deadline of an environment step.
        progress: told (episodes finished, episodes in all).
        stop: asked at every step whether to give up.

    Raises:
        RunFailedError: an environment failed, or ``stop``; a score from fewer episodes than asked is no score.
    """
    task_ids = _tasks_of_slots(factory.spec, tasks, episodes)
    quota = np.zeros(len(task_ids), np.int64)
    for task in tasks:
        own = np.flatnonzero(np.array(task_ids) == task)
        quota[own] = episodes // len(own) + (np.arange(len(own)) < episodes % len(own))
    seeds = np.random.SeedSequence([seed, EVALUATION_STREAM]).generate_state(len(task_ids) + 1)
    player = PolicyPlayer("policy", policy)
    env = TimedEnv(factory.make(task_ids), step_timeout_s)
    try:
        result = _play(
            env,
            factory.spec,
            ActingPlayer(player, factory.spec, np.arange(len(task_ids)), np.array(task_ids, np.int64), int(seeds[-1])),
            [int(each >> 1) for each in seeds[:-1]],
            quota,
            progress,
            stop,
        )
    except EnvironmentFaultError as fault:
        raise RunFailedError(f"evaluation stopped: {fault}") from fault
    finally:
        env.close()
    names = factory.spec.tasks
    scores: dict[str, list[tuple[float, int]]] = {names[task]: [] for task in tasks}
    for slot, finished in enumerate(result):
        if quota[slot]:  # in a game there are roles that were not asked for
            scores[names[task_ids[slot]]] += finished
    return EvaluationResult(
        run=run,
        step=env_steps,
        frames=env_steps * factory.spec.frames_per_step,
        protocol=factory.spec.protocol,
        seed=seed,
        episodes={task: tuple(episode_return for episode_return, _ in played) for task, played in scores.items()},
        lengths={task: tuple(length for _, length in played) for task, played in scores.items()},
    )


def _tasks_of_slots(spec: EnvSpec, tasks: Sequence[int], episodes: int) -> list[int]:
    """As many slots as are of use, up to ``MOST_SLOTS``: whole games where the spec has seats."""
    if spec.seats:
        games = max(1, min(episodes, MOST_SLOTS // spec.slots_per_game))
        return [spec.task_of(slot) for slot in range(games * spec.slots_per_game)]
    return [task for _ in range(max(1, min(episodes, MOST_SLOTS // len(tasks)))) for task in tasks]


def _play(
    env: TimedEnv,
    spec: EnvSpec,
    acting: ActingPlayer,
    seeds: list[int],
    quota: IntArray,
    progress: Progress | None,
    stop: Callable[[], bool],
) -> list[list[tuple[float, int]]]:
    """Step until every slot has played its quota; returns each slot's (return, length) in order.

    Raises:
        RunFailedError: ``stop``, or a slot that is asked for never plays.
    """
    finished: list[list[tuple[float, int]]] = [[] for _ in quota]
    returns, lengths, absent = np.zeros(len(quota)), np.zeros(len(quota), np.int64), np.zeros(len(quota), np.int64)
    entry = env.reset(seeds)
    while any(len(done) < wanted for done, wanted in zip(finished, quota, strict=True)):
        if stop():
            raise RunFailedError("evaluation stopped before its end; it has no score")
        actions = acting.act(entry.observation, entry.reward, entry.on_turn)
        was_done = entry.terminated | entry.truncated
        acting.reset(was_done)
        entry = env.step(actions)
        returns += entry.reward  # 0 at a reset step
        lengths += ~was_done
        ended = entry.terminated | entry.truncated
        over = ended.reshape(-1, spec.slots_per_game).all(axis=1).repeat(spec.slots_per_game)
        absent = np.where(lengths > 0, 0, absent + over)
        if (never := (absent >= ABSENT_GAMES) & (quota > 0)).any():
            agent = spec.seats[int(np.argmax(never)) % spec.slots_per_game].agent
            raise RunFailedError(
                f"evaluation stopped: agent {agent!r} had no step in {ABSENT_GAMES} games; don't list it as possible"
            )
        for slot in np.flatnonzero(ended):
            if lengths[slot] and len(finished[slot]) < quota[slot]:
                finished[slot].append((float(returns[slot]), int(lengths[slot])))
                if progress is not None:
                    progress(sum(map(len, finished)), int(quota.sum()))
            returns[slot] = lengths[slot] = 0
    return finished
