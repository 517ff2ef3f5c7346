"""Who plays which slot of a group of games, and how the games end.

Entry t of a game::

    first ── … ── last ── first of the next game
    draw          result   release, draw

The players stay from a game's first entry to its last, on which they act too, though it has no effect
(NEXT_STEP); the step after it is the reset step, and its entry opens the next game with new players.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from machina.actors.saved_arrays import check_arrays
from machina.errors import UserError
from machina.interfaces import Drawn, Opponents, Policy
from machina.specs import EnvSpec
from machina.types import (
    PRESENT_SELF,
    ActorInput,
    ActorOutput,
    Array,
    BoolArray,
    GameResult,
    IntArray,
    StepResult,
    copies,
    names_as_array,
    names_of,
)


class Seating:
    """Seats the players of a group's games: the policy that learns, and opponents from the pool.

    In a game against the pool the present self plays one team, each as likely as the others, and the opponent all
    other teams. The n-th draw of a group depends on the seed, n and the pool alone.

    The actor's groups share its opponents, so these are touched in the actor's thread only, by ``answer`` and
    ``receive``; groups may be built side by side.

    Args:
        spec: of the environment.
        num_slots: B; whole games where the spec has seats.
        opponents: None where the policy only plays itself.
        seed: of the draws: the run's seed and what distinguishes this group from others.
    """

    def __init__(self, spec: EnvSpec, num_slots: int, opponents: Opponents | None, seed: Sequence[int]) -> None:
        num_games = num_slots // len(spec.seats) if spec.seats else 0
        self._spec = spec
        self._num_teams = spec.num_teams
        self._team_of_seat = spec.team_of_seat
        self._opponents = opponents if spec.num_teams > 1 else None
        self._seed = tuple(seed)
        self._drawn = 0
        self._players: list[Drawn | None] = [None] * num_games
        self._own_team = np.zeros(num_games, np.int64)
        self._scores = np.zeros((num_games, len(spec.seats)), np.float64)
        self._lengths = np.zeros(num_games, np.int64)
        self._over = np.zeros(num_games, np.bool_)
        self._slots_of: dict[str, IntArray] = {}
        self._unfinished: Callable[[], None] | None = None
        """Seats players, in the actor's thread: left to the next ``answer`` by what other threads may call."""
        self.foreign: BoolArray = np.zeros(num_slots, np.bool_)
        """``[B]``: slots that another player than the policy that learns plays at the entry at hand."""
        self.finished_games: collections.deque[GameResult] = collections.deque()
        """Filled by the actor's thread, drained by the trainer's."""

    def begin(self) -> None:
        """Seat every game again: at the first entry, and when the environment was replaced; open games are lost."""
        self._over = np.zeros_like(self._over)
        self._unfinished = functools.partial(self._seat, range(len(self._players)))

    def _seat(self, games: Sequence[int]) -> None:
        """Draw the players of games whose first entry is at hand."""
        for game in games:
            self._scores[game] = self._lengths[game] = 0
        if self._opponents is None:
            return
        changed = self._release(games, self._opponents)
        if self._opponents.available:
            for game in games:
                which, against, side = np.random.default_rng([*self._seed, self._drawn]).random(3)
                self._drawn += 1
                self._players[game] = self._opponents.draw((which, against))
                self._own_team[game] = int(side * self._num_teams)
                changed |= self._players[game] is not None
        if changed:
            self._note_slots()

    def _release(self, games: Sequence[int], opponents: Opponents) -> bool:
        """Let go of the games' opponents; returns whether there were any."""
        held = [player for game in games if (player := self._players[game]) is not None]
        for player in held:
            opponents.release(player.name)
        for game in games:
            self._players[game] = None
        return bool(held)

    def _note_slots(self) -> None:
        """Find out which slots each opponent plays."""
        foreign = np.zeros((len(self._players), len(self._team_of_seat)), np.bool_)
        games_of: dict[str, list[int]] = {}
        for game, player in enumerate(self._players):
            if player is not None:
                foreign[game] = self._team_of_seat != self._own_team[game]
                games_of.setdefault(player.name, []).append(game)
        self.foreign = foreign.reshape(-1)
        numbers = np.arange(len(self.foreign)).reshape(foreign.shape)
        self._slots_of = {name: numbers[games][foreign[games]] for name, games in games_of.items()}

    def answer(self, policy: Policy, inputs: ActorInput) -> ActorOutput:
        """Everybody's actions on an entry: one batch for the policy that learns, one for each opponent.

        In each slot the core state is that of the player there.
        """
        self._finish_seating()
        answer = policy.act(inputs)
        if self._opponents is None or not self._slots_of:
            return answer
        whole = ActorOutput(
            answer.action.copy(),
            copies(answer.policy_outputs),
            tuple(array.copy() for array in answer.core_state),
        )
        for name, slots in self._slots_of.items():
            part = self._opponents.act(name, inputs.of(slots))
            whole.action[slots] = part.action
            for key, output in part.policy_outputs.items():
                whole.policy_outputs[key][slots] = output
            for array, own in zip(whole.core_state, part.core_state, strict=True):
                array[slots] = own
        return whole

    def _finish_seating(self) -> None:
        """Seat those who are to be seated since the last answer."""
        if self._unfinished is not None:
            finish, self._unfinished = self._unfinished, None
            finish()

    def receive(self, entry: StepResult) -> None:
        """Take the next entry: count it, note the games that end with it, seat those that begin with it."""
        if not self._players:
            return
        reset_step = self._over
        if reset_step.any():
            self._seat(np.flatnonzero(reset_step).tolist())
        shape = self._scores.shape
        self._scores += entry.score.reshape(shape)  # 0 at a reset step
        self._lengths += ~reset_step
        self._over = np.logical_and.reduce((entry.terminated | entry.truncated).reshape(shape), axis=1)
        cut = (entry.truncated & ~entry.terminated).reshape(shape)
        over = np.flatnonzero(self._over).tolist()
        self.finished_games.extend(self._result(game, bool(cut[game].any())) for game in over)

    def _result(self, game: int, cut: bool) -> GameResult:
        teams = range(self._num_teams)
        scores = self._spec.team_scores(self._scores[game])
        length, opponent = int(self._lengths[game]), self._players[game]
        if opponent is None:
            return GameResult((PRESENT_SELF,) * self._num_teams, scores, length, cut=cut)
        players = tuple(PRESENT_SELF if team == self._own_team[game] else opponent.name for team in teams)
        return GameResult(players, scores, length, opponent.probability, cut)

    def counters(self) -> dict[str, Array]:
        """What keeps draws from repeating when the group starts again with new games."""
        return {"drawn": np.array(self._drawn)}

    def load_counters(self, state: Mapping[str, Array]) -> None:
        """Continue from ``counters``; before ``begin``."""
        self._drawn = int(state["drawn"])

    def state(self) -> dict[str, Array]:
        """Everything needed to continue the same games, as named arrays."""
        self._finish_seating()
        return self._arrays()

    def _arrays(self) -> dict[str, Array]:
        return {
            **self.counters(),
            "opponents": names_as_array([PRESENT_SELF if player is None else player.name for player in self._players]),
            "probabilities": np.array([0.0 if player is None else player.probability for player in self._players]),
            "own_team": self._own_team.copy(),
            "scores": self._scores.copy(),
            "lengths": self._lengths.copy(),
            "over": self._over.copy(),
        }

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Continue from ``state`` after all, when ``begin`` was called but ``answer`` was not yet.

        The opponents must have continued from their own state before the next ``answer``, which may raise ``UserError``
        when one of them is gone.

        Raises:
            UserError: it is of other games, or a saved game has an opponent and there are none any more.
        """
        check_arrays(state, self._arrays(), "saved games:", {"opponents": 0})
        self.load_counters(state)
        self._own_team = state["own_team"].copy()
        self._scores = state["scores"].copy()
        self._lengths = state["lengths"].copy()
        self._over = state["over"].copy()
        names, probabilities = names_of(state["opponents"]), state["probabilities"].tolist()
        if len(names) != len(probabilities):
            raise UserError("checkpoint: saved games: 'opponents' are not one of each game; use another checkpoint")
        self._players = [
            None if name == PRESENT_SELF else Drawn(name, probability)
            for name, probability in zip(names, probabilities, strict=True)
        ]
        held = [name for name in names if name != PRESENT_SELF]
        if held and self._opponents is None:
            raise UserError(f"snapshot {held[0]!r} plays a saved game; continue with the league's options")
        self._unfinished = functools.partial(self._hold, held)

    def _hold(self, names: Sequence[str]) -> None:
        """Hold the opponents of saved games."""
        if self._opponents is not None and names:
            for name in names:
                self._opponents.hold(name)
            self._note_slots()
