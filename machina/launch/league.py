"""Self-play against past selves, as the training loop drives it: snapshots, the pool, ratings."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from torch import Tensor

from machina.checkpoint import RunDirectory
from machina.checkpoint.files import write_atomically
from machina.envs.scripted import POINTS, SCRIPTED, random_player
from machina.errors import RunFailedError, UserError
from machina.launch.configuration import AnyRunConfig
from machina.launch.parts import Parts, policy_maker
from machina.league.matches import Player, PolicyPlayer, ScriptedPlayer, play_match
from machina.league.pool import Pool, PoolView, Snapshot
from machina.league.ratings import Ratings
from machina.league.snapshots import SnapshotStore
from machina.types import PRESENT_SELF, GameResult

RATING_STREAM = 5
"""Tells the random numbers of rating games from those of training, evaluation and matches."""

FORMER_SELVES = 3
"""Snapshots that each new one meets in its rating games, beside the scripted players."""

Share = Callable[[Snapshot, SnapshotStore], Any]


def snapshots_folder(run: RunDirectory) -> SnapshotStore:
    """The snapshots of a run."""
    return SnapshotStore(run.path / "league" / "snapshots")


class League:
    """The pool of past selves of one run, and their ratings.

    Ratings come from games of their own, never from training games: a new snapshot plays ``rating_games`` games, the
    same number against each scripted player, the snapshot before and others that are drawn evenly, both sides equally
    often. A thread plays them beside training; with ``beside=False`` they are played at once, so that a run
    repeats.

    Args:
        config: of the run; ``config.league.snapshot_updates`` is set.
        parts: built from it.
        run: where snapshots are written.
        share: makes what actors get a snapshot's parameters from.
        beside: whether ratings may come later than their snapshots.

    Raises:
        UserError: the environment is no game of two teams, or openskill is not installed.
    """

    def __init__(self, config: AnyRunConfig, parts: Parts, run: RunDirectory, share: Share, *, beside: bool) -> None:
        spec = parts.factory.spec
        if spec.num_teams != 2:
            raise UserError(
                f"snapshot_updates={config.league.snapshot_updates}: a league needs a game of two teams, "
                f"{config.environment!r} has {spec.num_teams}; see machina list"
            )
        self._config = config
        self._parts = parts
        self._run = run
        self._share = share
        self._store = snapshots_folder(run)
        self._scripted = SCRIPTED.get(config.environment, {"random": random_player(spec.action)})
        self.pool = Pool(config.league.quality_step)
        self.ratings = Ratings({name: POINTS[name] for name in self._scripted if name in POINTS})
        self._shared: list[Any] = []
        self._games: Counter[str] = Counter()
        self._rated: list[str] = []
        self._stop = threading.Event()
        self._executor = ThreadPoolExecutor(1, "ratings") if beside else None
        self._rating: deque[tuple[Snapshot, Future[list[GameResult]]]] = deque()

    # What the training loop does

    def view(self) -> PoolView:
        """What actors draw their opponents from."""
        return self.pool.view(self._shared, self._config.league.pool_share)

    def record(self, game: GameResult) -> None:
        """Count a training game; a win against a snapshot lowers its quality."""
        self._games["self" if set(game.players) == {PRESENT_SELF} else "pool"] += 1
        self.pool.record(game)

    def is_due(self, updates: int) -> bool:
        """Whether a snapshot is taken after this update."""
        every = self._config.league.snapshot_updates
        return every is not None and updates % every == 0

    def add_snapshot(self, updates: int, env_steps: int, parameters: Tensor) -> None:
        """The policy as it is now joins the pool.

        Raises:
            RunFailedError: it can't be written.
        """
        snapshot = self._store.save(updates, env_steps, parameters)
        self.pool.add(snapshot)
        self._shared.append(self._share(snapshot, self._store))
        self._rate(snapshot)
        self.write_table()

    def collect(self) -> bool:
        """Take in the rating games that are over; whether there were any."""
        found = False
        while self._rating and self._rating[0][1].done():
            snapshot, future = self._rating.popleft()
            for game in future.result():
                self.ratings.record(game.players, game.scores)
            self._rated.append(snapshot.name)
            found = True
        if found:
            self.write_table()
        return found

    def finish(self, stop: Callable[[], bool]) -> None:
        """Wait for the rating games that are under way, unless ``stop``: the last snapshots would have no rating."""
        while self._rating and not stop():
            if not self.collect():
                time.sleep(0.1)

    def close(self) -> None:
        """Give up rating games that are under way."""
        self._stop.set()
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    # Rating games

    def _rate(self, snapshot: Snapshot) -> None:
        earlier = [each for each in self.pool.snapshots if each.updates < snapshot.updates]
        if self._executor is not None:
            self._rating.append((snapshot, self._executor.submit(self._rating_games, snapshot, earlier)))
            return
        future: Future[list[GameResult]] = Future()
        future.set_result(self._rating_games(snapshot, earlier))
        self._rating.append((snapshot, future))

    def _rating_games(self, snapshot: Snapshot, earlier: list[Snapshot]) -> list[GameResult]:
        """All games of a snapshot; none if the run ends meanwhile."""
        seed = [self._config.seed, RATING_STREAM, snapshot.updates]
        random = np.random.default_rng(seed)
        # The one before ties the ratings of a climb together; the others are drawn evenly.
        drawn = random.permutation(len(earlier) - 1)[: FORMER_SELVES - 1].tolist() if earlier else []
        met = [earlier[index] for index in sorted(drawn)] + earlier[-1:]
        opponents: list[Player] = [ScriptedPlayer(name, choose) for name, choose in self._scripted.items()]
        opponents += [self._player(each) for each in met]
        pairs = self._config.league.rating_games // 2  # of games, one on each side
        opponents = opponents[:pairs]
        games = 2 * (pairs // len(opponents))
        subject = self._player(snapshot)
        results: list[GameResult] = []
        for opponent in opponents:
            match_seed = int(random.integers(2**31))
            try:
                played = play_match(self._parts.factory, [subject, opponent], games, match_seed, stop=self._stop.is_set)
            except RunFailedError:
                if self._stop.is_set():
                    return []
                raise
            results += played.games
        return results

    def _player(self, snapshot: Snapshot) -> PolicyPlayer:
        policy = policy_maker(self._config, self._parts)()
        policy.load_parameters(self._store.load(snapshot))
        return PolicyPlayer(snapshot.name, policy)

    # What is kept and shown

    def state(self) -> dict[str, Any]:
        """Everything that the league depends on, for JSON."""
        return {
            "pool": self.pool.state(),
            "ratings": self.ratings.state(),
            "rated": list(self._rated),
            "games": dict(self._games),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; ratings that were not finished are begun again.

        Raises:
            UserError: a snapshot's file is missing or damaged.
        """
        self.pool.load_state(state["pool"])
        self.ratings.load_state(state["ratings"])
        self._rated = list(state["rated"])
        self._games = Counter(state["games"])
        self._shared = []
        for snapshot in self.pool.snapshots:
            self._store.load(snapshot)  # a damaged one is told now, not in the middle of a game
            self._shared.append(self._share(snapshot, self._store))
        for snapshot in self.pool.snapshots:
            if snapshot.name not in self._rated:
                self._rate(snapshot)

    def table(self) -> dict[str, Any]:
        """What ``league.json`` holds, see ``machina.report.league``."""
        snapshots = [
            {**snapshot._asdict(), "quality": quality, "probability": probability, **met._asdict()}
            for snapshot, quality, probability, met in zip(
                self.pool.snapshots,
                self.pool.qualities,
                self.pool.probabilities,
                self.pool.meetings,
                strict=True,
            )
        ]
        return {
            "pool_share": self._config.league.pool_share,
            "snapshots": snapshots,
            "ratings": [rating._asdict() for rating in self.ratings.table()],
            "cross_table": self.ratings.cross_table()._asdict(),
            "games": {kind: self._games[kind] for kind in ("self", "pool")},
        }

    def write_table(self) -> None:
        """Write ``league.json``.

        Raises:
            RunFailedError: the disk is full or refuses.
        """
        folder = self._run.path / "league"
        try:
            folder.mkdir(exist_ok=True)
            write_atomically(folder / "league.json", json.dumps(self.table()).encode())
        except OSError as error:
            raise RunFailedError(
                f"'{folder / 'league.json'}' could not be written: {error.strerror or error}"
            ) from error

    def metrics(self) -> dict[str, float]:
        """What the metrics show: the pool, and the newest rating."""
        values: dict[str, float] = {
            "league/snapshots": float(len(self.pool.snapshots)),
            "league/games_self": float(self._games["self"]),
            "league/games_pool": float(self._games["pool"]),
        }
        met = self.pool.meetings
        if games := sum(each.games for each in met):
            values["league/win_rate_pool"] = sum(each.wins + each.draws / 2 for each in met) / games
        ratings = {rating.name: rating for rating in self.ratings.table()} if self._rated else {}
        if self._rated and (newest := ratings.get(self._rated[-1])) is not None:
            values |= {"league/rating": newest.mu, "league/rating_sigma": newest.sigma}
        return values
