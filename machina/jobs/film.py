"""Films of a policy at play."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np

from machina.checkpoint.files import as_file_name
from machina.envs.games.table import GAMES
from machina.envs.pictures import draw_without_display
from machina.errors import EnvironmentFaultError, RunFailedError, UserError
from machina.hardware import torch_threads
from machina.interfaces import SlotEnv
from machina.jobs.loaded_run import task_index
from machina.jobs.match import BEST, Lineup, PlayerName, RunPlayers, lineup, parse_player, short_name, team_labels
from machina.launch.plan import seed_shared_generators
from machina.play.acting import ActingPlayer
from machina.play.timed import TimedFactory
from machina.report.video import write_mp4
from machina.specs import EnvSpec
from machina.types import Array, IntArray

FRAMES_PER_S = 60
"""The Atari's frame rate; environments that state no speed of their own are shown at half of it."""

GAME_FRAMES_PER_S = 5
"""Of PettingZoo's games that state none; in some a step is one move on a board."""

LAST_PICTURE_S = 1.5
"""How long the end of a game of several agents is shown."""


class Film(NamedTuple):
    """A written film."""

    file: Path
    task: str
    frames: int
    episode_return: float
    """Of the run's policy; the mean over the agents that it plays."""
    scores: tuple[tuple[str, float], ...]
    """Who played each team of a game, and the mean return of the team's agents; empty for a single agent."""
    remark: str


class _Play:
    """Plays one episode, of several agents one game, and yields its pictures."""

    def __init__(self, env: SlotEnv, sides: list[ActingPlayer], seed: int, max_steps: int) -> None:
        self._env = env
        self._sides = sides
        self._seed = seed
        self._max_steps = max_steps
        self.returns = np.zeros(len(env.task_ids))
        self.ended = False

    def pictures(self, times_last: int) -> Iterator[Array]:
        """Every entry's picture, the one of the end ``times_last`` times."""
        env = self._env
        num_slots = len(self.returns)
        action = env.spec.action.none(num_slots)
        entry = env.reset([self._seed] * num_slots)
        for _ in range(self._max_steps):
            yield env.render()
            for side in self._sides:
                action[side.slots] = side.act(entry.of(side.slots))
            entry = env.step(action)
            self.returns += entry.reward
            if (entry.terminated | entry.truncated).all():
                self.ended = True
                yield from repeat(env.render(), times_last)
                return


def film(
    run: Path,
    game: str | None = None,
    seed: int = 0,
    best: bool = False,
    max_steps: int = 5000,
    against: str | None = None,
    snapshot: str | None = None,
) -> Film:
    """Film one episode of a run's policy; of several agents one game, in which it plays all of them.

    Args:
        run: run directory.
        game: task to play; None is the run's first.
        seed: seeds environment and action sampling.
        best: the best checkpoint instead of the latest.
        max_steps: longest film, in env steps.
        against: player of all teams but the first, see ``machina.jobs.match.parse_player``.
        snapshot: of the run's league, instead of the latest checkpoint.

    Raises:
        UserError: no such run, task, checkpoint or player, or an environment without pictures.
        RunFailedError: the environment fails, or the film can't be written.
    """
    draw_without_display()
    if best and snapshot is not None:
        raise UserError(f"snapshot={snapshot!r} and best name two policies; leave one out")
    names = [PlayerName(run, snapshot or (BEST if best else ""))]
    if against is not None:
        names.append(parse_player(against))
    chosen = lineup(names)
    host, spec = chosen.host, chosen.factory.spec
    assert host is not None  # the first player is one of its
    task = _task(game, spec)
    if against is not None and spec.num_teams < 2:
        raise UserError(f"against={against!r}: {spec.name} has no two teams; leave it out")
    file = _file(chosen, host, task, seed)
    factory = TimedFactory(chosen.factory, host.config.runtime.step_timeout_s)
    seed_shared_generators(chosen.factory, seed)
    try:
        env = factory.make_for_video(task)
        try:
            with torch_threads(host.threads):
                sides = _sides(chosen, env.task_ids, seed)
                play = _Play(env, sides, seed, max_steps)
                fps = frames_per_s(spec, env.render_fps)
                times_last = max(1, round(fps * LAST_PICTURE_S)) if spec.seats else 1
                frames = write_mp4(file, play.pictures(times_last), fps)
        finally:
            env.close()
    except EnvironmentFaultError as fault:
        raise RunFailedError(f"filming stopped: {fault}\n{fault.details}".rstrip()) from fault
    return Film(
        file=file,
        task=spec.name if spec.seats else spec.tasks[task],
        frames=frames,
        episode_return=float(play.returns[sides[0].slots].mean()),
        scores=_scores(spec, sides, play.returns),
        remark="" if play.ended else f", cut after {max_steps} env steps",
    )


def _task(game: str | None, spec: EnvSpec) -> int:
    if game is None:
        return 0
    if spec.seats:
        raise UserError(f"game={game!r}: all agents of {spec.name} are in its film; leave it out")
    return task_index(game, spec.tasks)


def _file(chosen: Lineup, host: RunPlayers, task: int, seed: int) -> Path:
    own, *others = chosen.entrants
    if own.env_steps is None:
        raise UserError(f"snapshot={own.player.name!r} is a scripted player; film it with --against")
    spec = chosen.factory.spec
    name = as_file_name(spec.name if spec.seats else spec.tasks[task])
    opponent = "".join(f"-vs-{short_name(other.player.name)}" for other in others)
    return host.run.videos / f"{name}-{own.env_steps:012d}{opponent}-seed{seed}.mp4"


def frames_per_s(spec: EnvSpec, stated: float | None) -> float:
    """Steps per second at which to watch: what fits the eye, of a shipped game, else what is stated, else a guess."""
    if spec.name in GAMES:
        return GAMES[spec.name].pictures_per_s
    if stated is not None:
        return stated
    if spec.seats:
        return GAME_FRAMES_PER_S
    return FRAMES_PER_S / spec.frames_per_step if spec.frames_per_step > 1 else FRAMES_PER_S / 2


def _sides(chosen: Lineup, task_ids: IntArray, seed: int) -> list[ActingPlayer]:
    """The first player has the first team, the other one the rest; one alone has all."""
    spec, slots = chosen.factory.spec, np.arange(len(task_ids))
    parts = [slots]
    if len(chosen.entrants) > 1:
        first = spec.team_of_seat == 0
        parts = [slots[first], slots[~first]]
    return [
        ActingPlayer(entrant.player, spec, part, task_ids[part], seed)
        for entrant, part in zip(chosen.entrants, parts, strict=True)
    ]


def _scores(spec: EnvSpec, sides: list[ActingPlayer], returns: Array) -> tuple[tuple[str, float], ...]:
    """Each team's label, with the player's name if there are two, and its mean return."""
    scores = []
    for team, label in enumerate(team_labels(spec)):
        slots = np.flatnonzero(spec.team_of_seat == team)
        player = next(side.player.name for side in sides if slots[0] in side.slots)
        scores.append((f"{player} as {label}" if len(sides) > 1 else label, float(returns[slots].mean())))
    return tuple(scores)
