"""Self-play against past selves, as the training loop drives it: snapshots, the pool, ratings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from machina.actors.slot_group import COUNTERS
from machina.checkpoint import RunDirectory
from machina.checkpoint.files import write_or_refuse
from machina.envs.games.scripted import POINTS, SCRIPTED, random_player
from machina.envs.games.teams import two_teams
from machina.errors import RunFailedError, UserError
from machina.launch.places import Place
from machina.launch.plan import RunPlan
from machina.launch.rating_games import RatingGames
from machina.launch.saved_state import SavedLeague
from machina.league.pool import Pool, PoolView, Snapshot
from machina.league.ratings import Ratings
from machina.league.snapshots import SnapshotStore
from machina.league.table import LeagueTable, RatingRow, SnapshotRow, TrainingGames
from machina.types import PRESENT_SELF, Array, GameResult


def snapshots_folder(run: RunDirectory) -> SnapshotStore:
    """The snapshots of a run."""
    return SnapshotStore(run.path / "league" / "snapshots")


class League:
    """The pool of past selves of one run, and their ratings.

    Ratings come from games of their own, never from training games: a new snapshot plays ``rating_games`` games, the
    same number against each scripted player, the snapshot before and others that are drawn evenly, both sides equally
    often. A thread plays them during training; with ``beside=False`` they are played at once, so that a run
    repeats.

    Args:
        plan: of the run; ``config.league.snapshot_updates`` is set.
        run: where snapshots are written.
        place: where the learner publishes parameters, and actors get a snapshot's from.
        notice: shows the user an event.
        beside: whether ratings may come later than their snapshots.

    Raises:
        UserError: the environment is no game of two teams.
    """

    def __init__(
        self,
        plan: RunPlan,
        run: RunDirectory,
        place: Place,
        notice: Callable[[str], None],
        *,
        beside: bool,
    ) -> None:
        config, spec = plan.config, plan.spec
        if spec.num_teams != 2:
            example = two_teams([seat.agent for seat in spec.seats])
            hint = f", such as --teams {example}" if example else "; see machina list for games"
            raise UserError(
                f"environment={config.environment!r} has {spec.num_teams} teams, a league needs a game of two{hint}"
            )
        self._config = config
        self._run = run
        self._place = place
        self._notice = notice
        self._store = snapshots_folder(run)
        self._plan = plan
        scripted = SCRIPTED.get(config.environment, {"random": random_player(spec.action)})
        self.pool = Pool(config.league.quality_step)
        self.ratings = Ratings({name: POINTS[name] for name in scripted})
        self.faults = 0
        """Environments that failed in rating games, in this session."""
        self._shared: list[Any] = []
        self._games: Counter[str] = Counter()
        self._rated: list[str] = []
        self._table_is_stale = False
        """Whether the disk refused the latest one."""
        self._is_whole = True
        """Whether all snapshots of the checkpoint are still there."""
        self._logged = (0, 0.0)
        """Games and wins against the pool when the metrics were asked for last."""
        self._rating_games = RatingGames(plan, self._store, scripted, beside=beside)

    # What the training loop does

    def view(self) -> PoolView:
        """What actors draw their opponents from."""
        return self.pool.view(self._shared, self._config.league.pool_share)

    def record(self, games: Iterable[GameResult]) -> bool:
        """Count training games; a win against a snapshot lowers its quality. Returns whether the pool has changed."""
        serial = self.pool.serial
        for game in games:
            self._games["self" if set(game.players) == {PRESENT_SELF} else "pool"] += 1
            self.pool.record(game)
        return self.pool.serial != serial

    def is_due(self, updates: int) -> bool:
        """Whether a snapshot is taken after this update."""
        every = self._config.league.snapshot_updates
        return every is not None and updates % every == 0

    def add_snapshot(self, updates: int, env_steps: int, parameters: Any) -> None:
        """The policy as it is now joins the pool; when the disk refuses, the league continues without this snapshot.

        Args:
            updates: that made it.
            env_steps: of the run.
            parameters: as the learner published them.
        """
        try:
            snapshot = self._store.save(updates, env_steps, self._place.flat(parameters))
        except RunFailedError as error:
            self._notice(f"{error}; the run continues")
            return
        self.pool.add(snapshot)
        self._shared.append(self._place.share(snapshot, self._store))
        self._rate(snapshot)
        self.write_table()

    def collect(self) -> bool:
        """Take in the rating games that are over, and report their faults; whether there is a new rating.

        Raises:
            UserError: a snapshot's file is missing or damaged.
        """
        found = False
        try:
            for snapshot, games in self._rating_games.finished():
                if games is None:
                    continue  # a resumed run tries again
                if not self._rated:
                    self._tell_if_without_sides(snapshot, games)
                for game in games:
                    self.ratings.record(game.players, game.scores)
                self._rated.append(snapshot.name)
                found = True
        finally:
            for fault in self._rating_games.drain_faults():
                self.faults += 1
                self._notice(fault.message)
                self._run.log_fault(fault.message, fault.details)
        if found:
            self.write_table()
        return found

    def _tell_if_without_sides(self, snapshot: Snapshot, games: Sequence[GameResult]) -> None:
        """Say so when both teams got the same in every game: a game played together has no winner."""
        if not all(math.isclose(*game.scores, rel_tol=1e-6) for game in games):
            return
        cut = sum(game.cut for game in games)
        scored = any(any(game.scores) for game in games)
        self._notice(
            f"both teams got the same in all {len(games)} rating games of {snapshot.name}"
            + (f", of which a limit of steps cut {cut}" if cut else "")
            + ": this game has no sides, or others than these (--teams)"
            + ("; nobody wins it, and ratings say nothing" if scored else ", or nobody has scored yet")
        )

    @property
    def unrated(self) -> int:
        """Snapshots whose rating games are under way."""
        return self._rating_games.under_way

    def close(self) -> None:
        """Give up rating games that are under way."""
        self._rating_games.close()

    def _rate(self, snapshot: Snapshot) -> None:
        earlier = [each for each in self.pool.snapshots if each.updates < snapshot.updates]
        self._rating_games.begin(snapshot, earlier)

    # What is kept and shown

    def state(self) -> dict[str, Any]:
        """Everything that the league depends on, for JSON."""
        return {
            "pool": self.pool.state(),
            "ratings": self.ratings.state(),
            "rated": list(self._rated),
            "games": dict(self._games),
        }

    def load_state(self, state: SavedLeague) -> None:
        """Continue from ``state``; ratings that were not finished are begun again.

        A snapshot whose file is missing, damaged or of another network leaves the pool, and a line in the log of faults
        says so: the others are drawn as if it had never been there. Results of its games still count for the ratings of
        those that it met.
        """
        self.pool.load_state(state.pool.model_dump())
        self.ratings.load_state(state.ratings.model_dump())
        self._games = Counter(state.model_dump()["games"])
        self._logged = self._pool_games_and_wins()
        self._shared = []
        policy = self._plan.make_policy(explores=False)
        for snapshot in self.pool.snapshots:
            try:
                self._store.load_into(policy, snapshot)  # a bad one is reported now, not in the middle of a game
            except UserError as error:
                self.pool.remove(snapshot.name)
                message = f"the league continues without {snapshot.name}: {error}"
                self._notice(message)
                self._run.log_fault(message, "")
                continue
            self._shared.append(self._place.share(snapshot, self._store))
        kept = {snapshot.name for snapshot in self.pool.snapshots}
        self._is_whole = len(kept) == len(state.pool.snapshots)
        self._rated = [name for name in state.rated if name in kept]
        for snapshot in self.pool.snapshots:
            if snapshot.name not in self._rated:
                self._rate(snapshot)

    def playable(self, actors: dict[str, Array]) -> dict[str, Array]:
        """What actors continue from: without the games under way, if one may be against a snapshot that left the pool.

        Args:
            actors: their saved state.
        """
        if self._is_whole:
            return actors
        return {name: array for name, array in actors.items() if name.endswith(COUNTERS) or name.startswith("queue/")}

    def table(self) -> LeagueTable:
        """What ``league.json`` holds."""
        snapshots = [
            SnapshotRow(**snapshot._asdict(), quality=quality, probability=probability, **met._asdict())
            for snapshot, quality, probability, met in zip(
                self.pool.snapshots,
                self.pool.qualities,
                self.pool.probabilities,
                self.pool.meetings,
                strict=True,
            )
        ]
        shown = {snapshot.name for snapshot in self.pool.snapshots}  # those that left it can't be played any more
        ratings = [each for each in self.ratings.table() if each.name in shown or each.sigma == 0]
        return LeagueTable(
            pool_share=self._config.league.pool_share,
            snapshots=tuple(snapshots),
            ratings=tuple(RatingRow(**each._asdict()) for each in ratings),
            games=TrainingGames.model_validate({kind: self._games[kind] for kind in ("self", "pool")}),
        )

    def write_table(self) -> None:
        """Write ``league.json``; when the disk refuses, the former one stays. Checkpoints hold all of it as well."""
        file = self._run.path / "league" / "league.json"
        try:
            write_or_refuse(file, self.table().model_dump_json(by_alias=True).encode())
            self._table_is_stale = False
        except RunFailedError as error:
            if not self._table_is_stale:  # reported once, not at every line of the metrics
                self._notice(f"{error}; the former one stays")
            self._table_is_stale = True

    def _pool_games_and_wins(self) -> tuple[int, float]:
        """Games against the pool, and how many of them the present self won, a draw counting half."""
        met = self.pool.meetings
        return sum(each.games for each in met), sum(each.wins + each.draws / 2 for each in met)

    def metrics(self) -> dict[str, float]:
        """What the metrics show: the pool since the former call, and the newest rating."""
        values: dict[str, float] = {
            "league/snapshots": float(len(self.pool.snapshots)),
            "league/games_self": float(self._games["self"]),
            "league/games_pool": float(self._games["pool"]),
        }
        games, won = self._pool_games_and_wins()
        games_before, won_before = self._logged
        if games > games_before:  # since the former line: over the whole run it would hardly move
            values["league/win_rate_pool"] = (won - won_before) / (games - games_before)
            self._logged = games, won
        ratings = {rating.name: rating for rating in self.ratings.table()} if self._rated else {}
        if self._rated and (newest := ratings.get(self._rated[-1])) is not None:
            values |= {"league/rating": newest.mu, "league/rating_sigma": newest.sigma}
        return values
