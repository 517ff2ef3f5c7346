"""The rating games of a league: who plays whom, in a thread during training, and what becomes of faults."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np

from machina.actors.actor import Fault
from machina.envs.games.scripted import Rule
from machina.errors import EnvironmentFaultError, UserError
from machina.launch.plan import RunPlan
from machina.league.pool import Snapshot
from machina.league.snapshots import SnapshotStore
from machina.play.matches import MatchResult, Player, PolicyPlayer, RulePlayer, play_match
from machina.play.timed import TimedFactory
from machina.streams import Stream
from machina.types import GameResult

FORMER_SELVES = 3
"""Snapshots that each new one meets in its rating games, in addition to the scripted players."""

CLOSE_TIMEOUT_S = 5.0
"""How long the step at hand is waited for at the end; then the thread is left behind with what hangs."""


class _Job(NamedTuple):
    """A snapshot's rating games."""

    snapshot: Snapshot
    earlier: tuple[Snapshot, ...]
    played: Future[list[GameResult] | None]


class RatingGames:
    """Plays the rating games of one snapshot after the other.

    When the environment fails, the games of that match are played once more with a fresh one; when that fails as
    well, the snapshot's games are given up: it has no rating, and the run continues.

    Args:
        plan: of the run.
        store: has the snapshots.
        scripted: rules that every snapshot meets, by the players' names.
        beside: whether they are played in a thread; else at once, so that a run repeats.
    """

    def __init__(self, plan: RunPlan, store: SnapshotStore, scripted: Mapping[str, Rule], *, beside: bool) -> None:
        self._plan = plan
        self._store = store
        self._scripted = scripted
        self._factory = TimedFactory(plan.factory, plan.config.runtime.step_timeout_s)
        self._faults: deque[Fault] = deque()
        """Filled by the playing thread, drained by the trainer's."""
        self._under_way: deque[_Job] = deque()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        # A daemon: what hangs in it must not hold the process.
        self._thread = threading.Thread(target=self._serve, name="ratings", daemon=True) if beside else None

    def begin(self, snapshot: Snapshot, earlier: Sequence[Snapshot]) -> None:
        """Play a snapshot's games, or have them played after those under way.

        Args:
            snapshot: to be rated.
            earlier: in the pool when it was made.
        """
        job = _Job(snapshot, tuple(earlier), Future())
        self._under_way.append(job)
        if self._thread is None:
            self._play(job)
            return
        self._jobs.put(job)
        if not self._thread.is_alive():
            self._thread.start()

    @property
    def under_way(self) -> int:
        """Snapshots whose games were begun and that ``finished`` has not returned."""
        return len(self._under_way)

    def finished(self) -> Iterator[tuple[Snapshot, list[GameResult] | None]]:
        """Snapshots whose games are over since the last call, in order; None for games that were given up.

        Raises:
            UserError: a snapshot's file is missing or damaged.
        """
        while self._under_way and self._under_way[0].played.done():
            job = self._under_way.popleft()
            yield job.snapshot, job.played.result()

    def drain_faults(self) -> Iterator[Fault]:
        """Environments that failed since the last call; each message says what follows."""
        while self._faults:
            yield self._faults.popleft()

    def close(self) -> None:
        """Give up the games that are under way."""
        self._stop.set()
        self._jobs.put(None)
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(CLOSE_TIMEOUT_S)

    def _serve(self) -> None:
        """The thread: job after job until ``close``."""
        while (job := self._jobs.get()) is not None and not self._stop.is_set():
            self._play(job)

    def _play(self, job: _Job) -> None:
        """Play all games of a job; what is raised is raised again where the games are asked for."""
        try:
            job.played.set_result(self._games(job.snapshot, job.earlier))
        except EnvironmentFaultError as fault:
            message = f"{job.snapshot.name} gets no rating, its games failed again: {fault}; the run continues"
            self._faults.append(Fault(message, details=fault.details))
            job.played.set_result(None)
        except BaseException as error:
            job.played.set_exception(error)

    def _games(self, snapshot: Snapshot, earlier: Sequence[Snapshot]) -> list[GameResult]:
        seed = [self._plan.config.seed, Stream.RATING_GAMES, snapshot.updates]
        random = np.random.default_rng(seed)
        # The one before ties the ratings of a climb together; the others are drawn evenly.
        drawn = random.permutation(len(earlier) - 1)[: FORMER_SELVES - 1].tolist() if earlier else []
        met = [earlier[index] for index in sorted(drawn)] + list(earlier[-1:])
        opponents: list[Player] = [RulePlayer(name, choose) for name, choose in self._scripted.items()]
        opponents += [self._player(each) for each in met]
        pairs = self._plan.config.league.rating_games // 2  # of games, one on each side
        opponents = opponents[:pairs]
        games = 2 * (pairs // len(opponents))
        subject = self._player(snapshot)
        return [
            game
            for opponent in opponents
            for game in self._match(subject, opponent, games, int(random.integers(2**31))).games
        ]

    def _player(self, snapshot: Snapshot) -> PolicyPlayer:
        policy = self._plan.make_policy(explores=False)
        policy.load_parameters(self._store.load(snapshot), done=1.0)
        return PolicyPlayer(snapshot.name, policy)

    def _match(self, subject: Player, opponent: Player, games: int, seed: int) -> MatchResult:
        """A match, played once more when the environment fails.

        Raises:
            EnvironmentFaultError: it failed again.
            RunFailedError: the run ends meanwhile.
        """
        try:
            return self._try(subject, opponent, games, seed)
        except EnvironmentFaultError as fault:
            if self._stop.is_set():
                raise
            message = f"replaced: {fault} (rating games of {subject.name} against {opponent.name})"
            self._faults.append(Fault(message, details=fault.details))
        # What comes of a state of the game would come again with the same numbers.
        return self._try(subject, opponent, games, seed + 1)

    def _try(self, subject: Player, opponent: Player, games: int, seed: int) -> MatchResult:
        try:
            return play_match(self._factory, [subject, opponent], games, seed, stop=self._stop.is_set)
        except UserError as error:  # it can't be built at this moment; in training it could
            raise EnvironmentFaultError(str(error)) from error
