"""What a run does besides learning, as the trainer drives it: nothing, or self-play against past selves."""

from __future__ import annotations

from collections import deque
from typing import Any

from machina.launch.places import Actors
from machina.launch.self_play import League
from machina.league.table import LeagueTable
from machina.learner.learner_group import Updated
from machina.types import Array


class RunHook:
    """Called by the trainer at fixed points of a run; this one does nothing."""

    faults = 0
    """Environments of its own that failed, in this session."""

    @property
    def unfinished(self) -> int:
        """Pieces of work that the end of the run waits for."""
        return 0

    def started(self, actors: Actors) -> None:
        """The actors are made and not started yet."""
        self._actors = actors

    def updated(self, updated: Updated, updates: int, env_steps: int) -> None:
        """An update was made, and its parameters are not published yet.

        Args:
            updated: what came of it.
            updates: of the run so far.
            env_steps: of the run so far.
        """

    def now_and_then(self) -> bool:
        """Between two turns of the loop; whether unfinished work has ended."""
        deque(self._actors.group.drain_games(), maxlen=0)  # who won counts in a league only
        return False

    def playable(self, state: dict[str, Array]) -> dict[str, Array]:
        """What of the actors' saved ``state`` can be continued from."""
        return state

    def state(self) -> dict[str, Any]:
        """What it adds to ``state.json`` of a checkpoint."""
        return {}

    def metrics(self) -> dict[str, float]:
        """What it adds to a line of the metrics."""
        return {}

    def table(self) -> LeagueTable | None:
        """What the live view shows of it."""
        return None

    def write(self) -> None:
        """Bring its files up to date."""

    def close(self) -> None:
        """Give up what is under way."""


class SelfPlayHook(RunHook):
    """A league: training games are counted, snapshots taken, the pool published with the parameters."""

    def __init__(self, league: League) -> None:
        self._league = league

    @property
    def faults(self) -> int:  # type: ignore[override]
        """Environments of rating games that failed, in this session."""
        return self._league.faults

    @property
    def unfinished(self) -> int:
        """Snapshots without a rating."""
        return self._league.unrated

    def started(self, actors: Actors) -> None:
        """Publish whom actors may play against."""
        super().started(actors)
        actors.store.set_opponents(self._league.view())

    def updated(self, updated: Updated, updates: int, env_steps: int) -> None:
        """Count the games that have ended, and take a snapshot if one is due.

        Once per update, before its parameters are published: then a lock-step league repeats.
        """
        changed = self._league.record(self._actors.group.drain_games())
        if self._league.is_due(updates):
            self._league.add_snapshot(updates, env_steps, updated.parameters)
            changed = True
        if changed:
            self._actors.store.set_opponents(self._league.view())

    def now_and_then(self) -> bool:
        """Take in rating games that have ended; whether there is a new rating."""
        return self._league.collect()

    def playable(self, state: dict[str, Array]) -> dict[str, Array]:
        """Without games against snapshots that have left the pool."""
        return self._league.playable(state)

    def state(self) -> dict[str, Any]:
        """Pool, ratings and games."""
        return {"league": self._league.state()}

    def metrics(self) -> dict[str, float]:
        """The pool and the newest rating."""
        return self._league.metrics()

    def table(self) -> LeagueTable:
        """Ratings and pool."""
        return self._league.table()

    def write(self) -> None:
        """``league.json``."""
        self._league.write_table()

    def close(self) -> None:
        """Give up rating games."""
        self._league.close()
