"""Evaluation: its own environments, its own seeds, exactly the episodes asked for.

The one path that scores come from: training with ``--eval-every``, ``machina eval`` and
``machina.evaluate`` all run this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from machina.errors import EnvironmentFaultError, RunFailedError, endless
from machina.interfaces import MOST_SLOTS, EnvFactory, Policy
from machina.play.acting import ActingPlayer
from machina.play.matches import PolicyPlayer
from machina.play.timed import TimedEnv, TimedFactory
from machina.report.evaluation import EvaluationResult
from machina.specs import EnvSpec
from machina.streams import Stream
from machina.types import IntArray

ABSENT_GAMES = 100
"""A role that had no step in this many games in a row counts as one that nobody ever plays."""

TOLD_EVERY_S = 5.0
"""The progress is reported at least this often, also while no episode ends."""

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
    """Play ``episodes`` full episodes of every task as they are shown: PQN greedily, others by their distribution.

    Every slot plays a number of episodes fixed beforehand, so that short episodes are not over-represented. Of a game
    for several agents this many whole games are played, and each gives every role one score: the mean return of the
    role's agents.

    Args:
        factory: builds the evaluation's environments.
        policy: parameters loaded; not changed.
        tasks: indices of the tasks to play.
        episodes: per task.
        seed: seeds environments and action sampling.
        run: the run directory, for the result.
        env_steps: age of the parameters, for the result.
        step_timeout_s: deadline of an environment step.
        progress: called with (episodes finished, episodes in all), at every episode's end and now and then.
        stop: asked at every step whether to give up.

    Raises:
        RunFailedError: an environment failed, an episode does not end, or ``stop``; a score from fewer episodes than
            asked is no score.
    """
    task_ids = _tasks_of_slots(factory.spec, tasks, episodes)
    parties = _parties(factory.spec, task_ids, tasks, episodes)
    seeds = np.random.SeedSequence([seed, Stream.EVALUATION]).generate_state(len(task_ids) + 1)
    player = PolicyPlayer("policy", policy)
    try:
        env = TimedFactory(factory, step_timeout_s).make(task_ids)
    except EnvironmentFaultError as fault:
        raise RunFailedError(f"evaluation stopped: {fault}") from fault
    try:
        result = _play(
            env,
            factory.spec,
            ActingPlayer(player, factory.spec, np.arange(len(task_ids)), np.array(task_ids), int(seeds[-1])),
            [int(each >> 1) for each in seeds[:-1]],
            parties,
            progress,
            stop,
        )
    except EnvironmentFaultError as fault:
        raise RunFailedError(f"evaluation stopped: {fault}") from fault
    finally:
        env.close()
    names = factory.spec.tasks
    scores: dict[str, list[tuple[float, int]]] = {names[task]: [] for task in tasks}
    for party, finished in zip(parties, result, strict=True):
        scores[names[party.task]] += finished
    return EvaluationResult(
        run=run,
        step=env_steps,
        frames=env_steps * factory.spec.frames_per_step,
        protocol=factory.spec.protocol,
        seed=seed,
        episodes={task: tuple(episode_return for episode_return, _ in played) for task, played in scores.items()},
        lengths={task: tuple(length for _, length in played) for task, played in scores.items()},
    )


class _Party(NamedTuple):
    """Whose returns count as one: a slot, or the agents of one role in one of the games that run side by side."""

    task: int
    slots: IntArray
    quota: int
    """Episodes that it is to play."""


def _tasks_of_slots(spec: EnvSpec, tasks: Sequence[int], episodes: int) -> list[int]:
    """As many slots as are of use, up to ``MOST_SLOTS``: whole games where the spec has seats."""
    if spec.seats:
        games = max(1, min(episodes, MOST_SLOTS // spec.slots_per_game))
        return [spec.task_of(slot) for slot in range(games * spec.slots_per_game)]
    return [task for _ in range(max(1, min(episodes, MOST_SLOTS // len(tasks)))) for task in tasks]


def _parties(spec: EnvSpec, task_ids: Sequence[int], tasks: Sequence[int], episodes: int) -> list[_Party]:
    """Those that are asked for; the episodes of a task are spread evenly over its parties."""
    games = np.arange(len(task_ids)).reshape(-1, spec.slots_per_game)
    parties = []
    for task in tasks:
        own = [np.array([slot for slot in game if task_ids[slot] == task]) for game in games]
        own = [slots for slots in own if len(slots)]
        share, rest = divmod(episodes, len(own))
        parties += [_Party(task, slots, share + (index < rest)) for index, slots in enumerate(own)]
    return parties


def _play(
    env: TimedEnv,
    spec: EnvSpec,
    acting: ActingPlayer,
    seeds: list[int],
    parties: Sequence[_Party],
    progress: Progress | None,
    stop: Callable[[], bool],
) -> list[list[tuple[float, int]]]:
    """Step until every party has played its quota; returns each one's (return, length) in order.

    Of several agents that is their mean return, and the length of the longest of their episodes: what they get in one
    game is one sample, however many they are.

    Raises:
        EnvironmentFaultError: the environment failed, or an episode does not end.
        RunFailedError: ``stop``, or a party that is asked for never plays.
    """
    finished: list[list[tuple[float, int]]] = [[] for _ in parties]
    absent = [0] * len(parties)
    wanted, most_steps = sum(party.quota for party in parties), spec.longest_episode
    entry = env.reset(seeds)
    returns, lengths = np.zeros((2, len(seeds)))
    told_at = time.monotonic()
    while any(len(done) < party.quota for done, party in zip(finished, parties, strict=True)):
        if stop():
            raise RunFailedError("evaluation stopped before its end; it has no score")
        if progress is not None and time.monotonic() - told_at >= TOLD_EVERY_S:
            told_at = time.monotonic()
            progress(sum(map(len, finished)), wanted)
        was_done = entry.terminated | entry.truncated
        entry = env.step(acting.act(entry))
        returns += entry.reward  # 0 at a reset step
        lengths += ~was_done
        ended = entry.terminated | entry.truncated
        over = ended.reshape(-1, spec.slots_per_game).all(axis=1).repeat(spec.slots_per_game)
        if lengths.max() >= most_steps:
            for party, done in zip(parties, finished, strict=True):
                game = party.slots[0] // spec.slots_per_game * spec.slots_per_game
                if len(done) < party.quota and lengths[game : game + spec.slots_per_game].max() >= most_steps:
                    raise endless(spec.name, most_steps)
        if not over.any():
            continue
        for index, (party, done) in enumerate(zip(parties, finished, strict=True)):
            if not over[party.slots[0]] or len(done) == party.quota:
                continue
            played = party.slots[lengths[party.slots] > 0]
            absent[index] = 0 if len(played) else absent[index] + 1
            if absent[index] == ABSENT_GAMES:
                agents = ", ".join(repr(spec.seats[slot % spec.slots_per_game].agent) for slot in party.slots)
                raise RunFailedError(
                    f"evaluation stopped: agent {agents} had no step in {ABSENT_GAMES} games; don't list it as possible"
                )
            if len(played):
                done.append((float(returns[played].mean()), int(lengths[played].max())))
                if progress is not None:
                    progress(sum(map(len, finished)), wanted)
        returns[over], lengths[over] = 0, 0
    return finished
