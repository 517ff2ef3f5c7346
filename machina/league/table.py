"""What a league wrote of itself, and tables of it: ratings, the opponent pool."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, model_validator
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from machina.checkpoint.typed import Amount, Count, Real, SavedFile, read_typed

SHOWN_RATINGS = 8
"""Players that `machina status` and the report list, the best first; those that are no snapshots come on top of it."""


class SnapshotRow(SavedFile):
    """A snapshot of the pool."""

    name: str = Field(pattern=r"^u[0-9]{6,}$")
    updates: Count
    env_steps: Count
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    quality: Real
    probability: Annotated[float, Field(ge=0, le=1)]
    wins: Count
    """Of the present self against it, in training games."""
    losses: Count
    draws: Count

    @property
    def games(self) -> int:
        return self.wins + self.losses + self.draws


class RatingRow(SavedFile):
    """A rated player."""

    name: str
    mu: Real
    sigma: Amount
    """0 of a player that is held fixed."""
    games: Count


class CrossTable(NamedTuple):
    """Every player against every other."""

    names: tuple[str, ...]
    win_rates: tuple[tuple[float | None, ...], ...]
    """``[row][column]``: share of the games that the row won, a draw counting half; None where they never met."""
    games: tuple[tuple[int, ...], ...]


class TrainingGames(SavedFile):
    """Games played in training so far."""

    itself: Count = Field(alias="self")
    """The policy on all teams."""
    pool: Count
    """Against a snapshot."""

    @property
    def pool_share(self) -> float:
        return self.pool / max(1, self.itself + self.pool)


class LeagueTable(SavedFile):
    """``league/league.json``."""

    pool_share: Annotated[float, Field(ge=0, le=1)]
    snapshots: tuple[SnapshotRow, ...]
    """In the order in which they were made."""
    ratings: tuple[RatingRow, ...]
    """The best first."""
    games: TrainingGames

    @model_validator(mode="after")
    def _names_once(self) -> LeagueTable:
        for kind in ("snapshots", "ratings"):
            names = [row.name for row in getattr(self, kind)]
            if len(set(names)) < len(names):
                raise ValueError(f"{kind} name somebody twice")
        return self

    @property
    def climb(self) -> tuple[tuple[SnapshotRow, RatingRow], ...]:
        """The rated snapshots in the order in which they were made."""
        rated = {row.name: row for row in self.ratings}
        return tuple((each, rated[each.name]) for each in self.snapshots if each.name in rated)

    @property
    def fixed_players(self) -> tuple[RatingRow, ...]:
        """The rated players that are not snapshots: they do not change while the league continues."""
        snapshots = {each.name for each in self.snapshots}
        return tuple(row for row in self.ratings if row.name not in snapshots)

    def best(self, count: int) -> tuple[RatingRow, ...]:
        """The ``count`` best snapshots and all fixed players, the best first."""
        fixed = {row.name for row in self.fixed_players}
        snapshots = [row.name for row in self.ratings if row.name not in fixed][:count]
        return tuple(row for row in self.ratings if row.name in fixed or row.name in snapshots)

    def most_probable(self, count: int) -> tuple[SnapshotRow, ...]:
        """The snapshots that are drawn most often now; of equal ones the youngest."""
        return tuple(sorted(self.snapshots, key=lambda row: (-row.probability, -row.updates))[:count])


def read_league(run_dir: Path) -> LeagueTable | None:
    """What the league of a run wrote last; None for a run that is no league.

    Raises:
        UserError: the file can't be read.
    """
    file = run_dir / "league" / "league.json"
    try:
        return read_typed(LeagueTable, file, "the next checkpoint of the run renews it")
    except FileNotFoundError:
        return None


def rating_text(row: RatingRow) -> str:
    """``21.4 ± 1.8``, with two standard deviations; without them where the rating is held fixed."""
    return f"{row.mu:.1f}" if row.sigma == 0 else f"{row.mu:.1f} ± {2 * row.sigma:.1f}"


def ratings_table(rows: Sequence[RatingRow]) -> Table:
    """A line per player."""
    table = _table("player", "rating ± 2 sigma", "rating games")
    for row in rows:
        table.add_row(Text(row.name), rating_text(row), f"{row.games:,}" if row.games else "–")
    return table


def pool_table(rows: Sequence[SnapshotRow]) -> Table:
    """A line per snapshot."""
    table = _table("snapshot", "env steps", "quality", "probability", "won / lost / drawn against it")
    for row in rows:
        table.add_row(
            Text(row.name),
            f"{row.env_steps:,}",
            f"{row.quality:.3f}",
            f"{row.probability:.1%}",
            f"{row.wins:,} / {row.losses:,} / {row.draws:,}",
        )
    return table


def games_line(league: LeagueTable) -> str:
    """How the training games were shared out."""
    games = league.games
    return (
        f"training games: {games.itself:,} of the policy against itself, {games.pool:,} against the pool "
        f"({games.pool_share:.1%}, asked for {league.pool_share:.1%})"
    )


def league_tables(league: LeagueTable) -> list[RenderableType]:
    """What `machina status` shows of a league."""
    return [
        Text(f"league: {len(league.snapshots)} snapshots; {games_line(league)}"),
        ratings_table(league.best(SHOWN_RATINGS)),
        pool_table(league.snapshots),
    ]


class MatchRow(NamedTuple):
    """A player's results in a match, in all games or on one team."""

    label: str
    is_part: bool
    """Of the row above."""
    win_rate: float
    """A draw counting half."""
    low: float
    """Of the interval of 95 %."""
    high: float
    wins: int
    draws: int
    losses: int
    cut_draws: int = 0
    """Of the draws, those of games that a limit of steps ended."""


def match_table(title: str, rows: Sequence[MatchRow]) -> Table:
    """Wins, draws, losses and win rate of every player, in all and by team."""
    table = _table("player", "games", "won", "drawn", "lost", "win rate", "95 % interval")
    table.title, table.title_justify = title, "left"
    for row in rows:
        drawn = f"{row.draws:,} ({row.cut_draws:,} cut)" if row.cut_draws else f"{row.draws:,}"
        table.add_row(
            Text(f"  {row.label}" if row.is_part else row.label),
            f"{row.wins + row.draws + row.losses:,}",
            f"{row.wins:,}",
            drawn,
            f"{row.losses:,}",
            f"{row.win_rate:.1%}",
            f"{row.low:.1%} to {row.high:.1%}",
            style="dim" if row.is_part else "",
        )
    if any(row.cut_draws for row in rows):
        table.caption, table.caption_justify = "cut: a limit of steps ended the game before anybody had won", "left"
    return table


def _table(first: str, *columns: str) -> Table:
    table = Table(first, box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right")
    return table
