"""The opponent pool: snapshots of the policy and how hard each still is to beat.

After OpenAI Five (Berner et al. 2019, appendix N).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from machina.league.results import outcome
from machina.types import PRESENT_SELF, GameResult


class Snapshot(NamedTuple):
    """A past policy; never changed after it was made."""

    name: str
    """Such as ``u000400``."""
    updates: int
    """Learner updates that made it."""
    env_steps: int
    """Of the run when it was made."""
    sha256: str
    """Of its parameters as float32, little end first."""


class Meetings(NamedTuple):
    """Games of the present self against one snapshot, as the present self saw them."""

    wins: int = 0
    losses: int = 0
    draws: int = 0

    @property
    def games(self) -> int:
        return self.wins + self.losses + self.draws


class PoolView(NamedTuple):
    """The pool as actors see it: picklable, never changed after publication."""

    names: tuple[str, ...]
    probabilities: tuple[float, ...]
    """Of each snapshot, given that a game is against the pool; they add up to 1."""
    parameters: tuple[Any, ...]
    """Of each snapshot: what the ``fetch`` of the actor's opponents turns into a flat vector."""
    pool_share: float
    """Share of games that are against the pool."""


class Pool:
    """Snapshots with their qualities q; the probability of a snapshot is softmax(q).

    A new snapshot starts with the highest quality there is, so that it is met often. A win of the present self lowers
    the loser's quality; a loss or a draw changes nothing.

    Args:
        quality_step: eta, see ``record_win``.
    """

    def __init__(self, quality_step: float) -> None:
        self._quality_step = quality_step
        self._snapshots: dict[str, Snapshot] = {}
        self._qualities: dict[str, float] = {}
        self._meetings: dict[str, Meetings] = {}
        self._serial = 0

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """In the order in which they joined, as in everything else that the pool returns."""
        return tuple(self._snapshots.values())

    @property
    def serial(self) -> int:
        """Changes so far."""
        return self._serial

    @property
    def qualities(self) -> tuple[float, ...]:
        return tuple(self._qualities.values())

    @property
    def meetings(self) -> tuple[Meetings, ...]:
        return tuple(self._meetings.values())

    @property
    def probabilities(self) -> tuple[float, ...]:
        """softmax of the qualities."""
        highest = max(self._qualities.values(), default=0.0)
        weights = [math.exp(quality - highest) for quality in self._qualities.values()]
        total = math.fsum(weights)
        return tuple(weight / total for weight in weights)

    def add(self, snapshot: Snapshot) -> None:
        """Take in a snapshot, with the highest quality there is; the first one's is 0."""
        if snapshot.name in self._snapshots:
            raise ValueError(f"the pool has a snapshot {snapshot.name!r} already")
        if not snapshot.name.isprintable() or snapshot.name == PRESENT_SELF:
            raise ValueError(f"{snapshot.name!r} is not a name for a snapshot")
        self._qualities[snapshot.name] = max(self._qualities.values(), default=0.0)
        self._snapshots[snapshot.name] = snapshot
        self._meetings[snapshot.name] = Meetings()
        self._serial += 1

    def remove(self, name: str) -> None:
        """Take out a snapshot that can't be played any more; the others keep their qualities."""
        for of in (self._snapshots, self._qualities, self._meetings):
            of.pop(name)
        self._serial += 1

    def record(self, result: GameResult) -> None:
        """Count a game; one without a snapshot of the pool in it is none of the pool's."""
        opponents = {player for player in result.players if player != PRESENT_SELF}
        if not opponents:
            return
        (name,) = opponents  # one opponent plays all teams that the present self does not
        came_to = outcome(result, result.players.index(PRESENT_SELF))
        if came_to == "win":
            self.record_win(name, result.probability)
        else:
            self._count(name, "draws" if came_to == "draw" else "losses")

    def record_win(self, name: str, probability: float) -> None:
        """The present self beat a snapshot: q <- q - eta / (N p), N snapshots (appendix N).

        Args:
            name: of the snapshot.
            probability: p with which the actor drew it. The division makes the expected change the same for all
                that it drew among, however seldom each comes, so it has to be the p of that draw: by the time the game
                is over the pool's own p is another, and an actor whose memory is full draws among fewer.
        """
        self._count(name, "wins")
        self._qualities[name] -= self._quality_step / (len(self._snapshots) * probability)
        self._serial += 1

    def _count(self, name: str, outcome: str) -> None:
        met = self._meetings[name]
        self._meetings[name] = met._replace(**{outcome: getattr(met, outcome) + 1})

    def view(self, parameters: Sequence[Any], pool_share: float) -> PoolView:
        """What is published to actors.

        Args:
            parameters: one entry per snapshot: tensors, or what stands for them.
            pool_share: share of games that are against the pool.
        """
        if len(parameters) != len(self._snapshots):
            raise ValueError(f"{len(self._snapshots)} snapshots need as many parameters, got {len(parameters)}")
        return PoolView(tuple(self._snapshots), self.probabilities, tuple(parameters), pool_share)

    def state(self) -> dict[str, Any]:
        """Everything, for JSON; floats come back bit for bit."""
        return {
            "serial": self._serial,
            "snapshots": [
                {
                    **snapshot._asdict(),
                    "quality": self._qualities[snapshot.name],
                    **self._meetings[snapshot.name]._asdict(),
                }
                for snapshot in self._snapshots.values()
            ],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``; what the pool held before is forgotten."""
        rows = state["snapshots"]
        self._serial = state["serial"]
        self._snapshots = {row["name"]: Snapshot(*(row[field] for field in Snapshot._fields)) for row in rows}
        self._qualities = {row["name"]: row["quality"] for row in rows}
        self._meetings = {row["name"]: Meetings(*(row[field] for field in Meetings._fields)) for row in rows}
