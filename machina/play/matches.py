"""Fair matches: a number of games fixed beforehand, every player on every side equally often."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from machina.errors import RunFailedError, UserError, endless, nearest
from machina.interfaces import MOST_SLOTS, EnvFactory, Policy, SlotEnv
from machina.league.results import outcome
from machina.memory import Memory
from machina.specs import EnvSpec
from machina.streams import Stream
from machina.types import (
    ActorInput,
    Array,
    BoolArray,
    CoreState,
    FloatArray,
    GameResult,
    IntArray,
    Observation,
    StepResult,
)

WILSON_Z = 1.959963984540054
"""0.975 quantile of the normal distribution, for intervals of 95 %."""

Progress = Callable[[int, int], None]


class Player(Protocol):
    """Who takes part in a match."""

    @property
    def name(self) -> str: ...

    def initial_core_state(self, num_slots: int) -> CoreState: ...

    def act(self, inputs: ActorInput) -> tuple[Array, CoreState]:
        """Actions of B slots, ``[B, *action.shape]``, and the next core state."""
        ...


class PolicyPlayer:
    """A policy with a name; its parameters are loaded and are not changed."""

    def __init__(self, name: str, policy: Policy) -> None:
        self.name = name
        self._policy = policy

    def initial_core_state(self, num_slots: int) -> CoreState:
        """That of the policy."""
        return self._policy.initial_core_state(num_slots)

    def act(self, inputs: ActorInput) -> tuple[Array, CoreState]:
        """The policy's actions."""
        answer = self._policy.act(inputs)
        return answer.action, answer.core_state


Choose = Callable[[Observation, IntArray, FloatArray], Array]


class RulePlayer:
    """A rule without memory as a player.

    Args:
        name: of the player.
        choose: takes the observation of B slots, task ids ``[B]`` and uniform numbers ``[B, *action.shape]``, returns
            actions ``[B, *action.shape]``.
    """

    def __init__(self, name: str, choose: Choose) -> None:
        self.name = name
        self._choose = choose

    def initial_core_state(self, num_slots: int) -> CoreState:  # noqa: ARG002 (no memory)
        """Nothing."""
        return ()

    def act(self, inputs: ActorInput) -> tuple[Array, CoreState]:
        """Apply the rule."""
        return self._choose(inputs.observation, inputs.task_id, inputs.uniforms), inputs.core_state


class WinRate(NamedTuple):
    """Share of games won, a draw counting half, with a Wilson interval of 95 %."""

    value: float
    low: float
    high: float
    wins: int
    draws: int
    losses: int
    cut_draws: int = 0
    """Of the draws, those of games that a limit of steps ended."""

    @property
    def games(self) -> int:
        return self.wins + self.draws + self.losses


class MatchResult(BaseModel):
    """All games of a match, in the order in which they were set up."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: str = Field(description="Name of the game.")
    players: tuple[str, ...] = Field(description="Names.")
    seed: int = Field(ge=0, description="Seed of the environments and of the players' actions.")
    games: tuple[GameResult, ...] = Field(description="Who played which team, and each team's score.")

    def win_rate(self, name: str, team: int | None = None) -> WinRate:
        """Of one player, in all games or in those where it played ``team``.

        The interval is that of wins and losses alone (Wilson 1927); with draws it is wider than it need be.

        Raises:
            UserError: the player did not take part.
        """
        if name not in self.players:
            raise UserError(f"player {name!r} is not in this match{nearest(name, self.players)}")
        sides = [(game, game.players.index(name)) for game in self.games]
        ends = [(outcome(game, side), game.cut) for game, side in sides if team is None or side == team]
        wins, draws, losses = (sum(came_to == kind for came_to, _ in ends) for kind in ("win", "draw", "loss"))
        return wilson(wins, draws, losses)._replace(cut_draws=ends.count(("draw", True)))

    def games_by_team(self, name: str) -> tuple[int, ...]:
        """How often a player played each team."""
        played = [game.players.index(name) for game in self.games]
        return tuple(played.count(team) for team in range(len(self.players)))

    @property
    def unequal_seats(self) -> str:
        """One line for the user when the players did not play every team equally often; else empty."""
        counts = {name: self.games_by_team(name) for name in self.players}
        if all(len(set(count)) == 1 for count in counts.values()):
            return ""
        shown = "; ".join(f"{name} {', '.join(map(str, count))}" for name, count in counts.items())
        teams = len(self.players)
        return f"{len(self.games)} games are not a multiple of {teams} teams; games as team 0 to {teams - 1}: {shown}"


def wilson(wins: int, draws: int, losses: int) -> WinRate:
    """Win rate with Wilson's score interval, 0 to 1 without games."""
    games = wins + draws + losses
    if not games:
        return WinRate(0.5, 0.0, 1.0, 0, 0, 0)
    value, z2 = (wins + draws / 2) / games, WILSON_Z**2
    centre = (value + z2 / (2 * games)) / (1 + z2 / games)
    half = WILSON_Z * math.sqrt(value * (1 - value) / games + z2 / (4 * games**2)) / (1 + z2 / games)
    return WinRate(value, max(0.0, centre - half), min(1.0, centre + half), wins, draws, losses)


def play_match(
    factory: EnvFactory,
    players: Sequence[Player],
    games: int,
    seed: int,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> MatchResult:
    """Play exactly ``games`` games between all ``players``, each playing one team.

    Game n puts player i on team (i + n) modulo the number of teams, so everybody plays every team equally often if
    the number of games is a multiple of it; else ``MatchResult.unequal_seats`` says how the rest fell. Which of the
    games that run side by side plays which n is fixed beforehand, so short games are not over-represented.

    Args:
        factory: builds the match's environment; the caller says by it whether a step has a deadline.
        players: as many as the game has teams.
        games: in all.
        seed: seeds the environment and the players' actions.
        progress: called with (games finished, games in all).
        stop: asked at every step whether to give up.

    Raises:
        UserError: no such match: not a game of teams, another number of players, equal names, no games.
        EnvironmentFaultError: the environment failed, or a game does not end; a match of fewer games than asked has
            no result.
        RunFailedError: ``stop``.
    """
    spec = factory.spec
    names = [player.name for player in players]
    _check(spec, names, games)
    side_by_side = min(games, max(1, MOST_SLOTS // spec.slots_per_game))
    env = factory.make([spec.task_of(slot) for slot in range(side_by_side * spec.slots_per_game)])
    try:
        played = _Match(env, players, games, side_by_side, seed).play(progress, stop)
    finally:
        env.close()
    return MatchResult(environment=spec.name, players=tuple(names), seed=seed, games=tuple(played))


def _check(spec: EnvSpec, names: list[str], games: int) -> None:
    if spec.num_teams < 2:
        raise UserError(f"environment {spec.name!r} has no two teams; a match needs a game such as connect_four")
    if len(names) != spec.num_teams:
        raise UserError(f"players={', '.join(names)}: {spec.name!r} has {spec.num_teams} teams, name one player each")
    if len(set(names)) < len(names):
        raise UserError(f"players={', '.join(names)}: names must differ")
    if games < 1:
        raise UserError(f"games={games}: a match needs at least 1")


class _Match:
    """Games of a match while they are played, G side by side with S seats each."""

    def __init__(self, env: SlotEnv, players: Sequence[Player], games: int, side_by_side: int, seed: int) -> None:
        spec = env.spec
        num_slots = side_by_side * spec.slots_per_game
        self._env = env
        self._players = players
        self._team_of_seat = spec.team_of_seat
        self._results: list[GameResult | None] = [None] * games
        # Game n runs at position n modulo G; a position without further games keeps stepping, without effect.
        self._game = np.arange(side_by_side)
        *seeds, action_seed = np.random.SeedSequence([seed, Stream.MATCH]).generate_state(num_slots + 1)
        self._seeds = [int(each >> 1) for each in seeds]
        self._uniforms = np.random.default_rng(action_seed)
        # Each is of all slots; what it holds where others play is forgotten before the player sits there.
        self._memories = [Memory(spec.action, num_slots, each.initial_core_state(num_slots)) for each in players]

    def play(self, progress: Progress | None, stop: Callable[[], bool]) -> list[GameResult]:
        """Step until every game is over; returns them in order."""
        shape = (len(self._game), len(self._team_of_seat))
        scores, lengths = np.zeros(shape), np.zeros(len(self._game), np.int64)
        over: BoolArray = np.zeros(len(self._game), np.bool_)
        entry = self._env.reset(self._seeds)
        finished: list[GameResult] = []
        most_steps = self._env.spec.longest_episode
        while len(finished) < len(self._results):
            if stop():
                raise RunFailedError("match stopped before its end; it has no result")
            actions = self._act(entry)
            self._game[over] += len(self._game)  # the step at hand resets these
            scores[over] = 0
            entry = self._env.step(actions)
            scores += entry.score.reshape(shape)  # 0 at a reset step
            lengths = np.where(over, 0, lengths + 1)
            over = np.logical_and.reduce((entry.terminated | entry.truncated).reshape(shape), axis=1)
            if (~over & (lengths >= most_steps) & (self._game < len(self._results))).any():
                raise endless(self._env.spec.name, most_steps)
            cut = np.logical_or.reduce((entry.truncated & ~entry.terminated).reshape(shape), axis=1)
            for position in np.flatnonzero(over).tolist():
                game = int(self._game[position])
                if game < len(self._results):
                    finished.append(self._result(game, scores[position], int(lengths[position]), bool(cut[position])))
                    self._results[game] = finished[-1]
                    if progress is not None:
                        progress(len(finished), len(self._results))
        return [result for result in self._results if result is not None]

    def _act(self, entry: StepResult) -> Array:
        """Everybody's actions, ``[B, *action.shape]``."""
        action = self._env.spec.action.none(len(self._seeds))
        uniforms = self._uniforms.random(action.shape, np.float32)
        team = (self._team_of_seat - self._game[:, None]) % len(self._players)
        for i, (player, memory) in enumerate(zip(self._players, self._memories, strict=True)):
            slots = np.flatnonzero(team.reshape(-1) == i)
            inputs = memory.inputs(entry, self._env.task_ids, uniforms, np.arange(len(action)))
            action[slots], core_state = player.act(inputs.of(slots))
            for array, own in zip(memory.core_state, core_state, strict=True):
                array[slots] = own
            memory.keep(entry, action, memory.core_state)
        return action

    def _result(self, game: int, scores: Array, length: int, cut: bool) -> GameResult:
        teams = range(len(self._players))
        return GameResult(
            players=tuple(self._players[(team - game) % len(teams)].name for team in teams),
            scores=self._env.spec.team_scores(scores),
            length=length,
            cut=cut,
        )
