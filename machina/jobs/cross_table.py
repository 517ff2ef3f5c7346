"""Every snapshot of a league against every other: fair matches, kept so that none is played twice."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field, model_validator

from machina.checkpoint.files import write_or_refuse
from machina.checkpoint.typed import Count, SavedFile, read_typed
from machina.hardware import torch_threads
from machina.jobs.match import RunPlayers, play_timed, scripted_players
from machina.league.table import CrossTable, SnapshotRow
from machina.play.matches import MatchResult, Player, Progress


class Participant(NamedTuple):
    """A player of the table."""

    name: str
    sha256: str
    """Of a snapshot's parameters; empty of a scripted player."""


class PairRecord(SavedFile):
    """What a pair of players came to."""

    players: tuple[Participant, Participant]
    wins: Count = Field(default=0, description="Of the first player.")
    draws: Count = 0
    losses: Count = 0

    @property
    def games(self) -> int:
        return self.wins + self.draws + self.losses

    @property
    def win_rate(self) -> float:
        """Of the first player, a draw counting half."""
        return (self.wins + self.draws / 2) / self.games

    def with_games(self, result: MatchResult) -> PairRecord:
        """This record and what a further match came to."""
        rate = result.win_rate(result.players[0])
        return self.model_copy(
            update={
                "wins": self.wins + rate.wins,
                "draws": self.draws + rate.draws,
                "losses": self.losses + rate.losses,
            }
        )


class _Records(SavedFile):
    """``report/cross_table.json``."""

    pairs: tuple[PairRecord, ...] = ()

    @model_validator(mode="after")
    def _pairs_once(self) -> _Records:
        pairs = [record.players for record in self.pairs]
        if len(set(pairs)) < len(pairs):
            raise ValueError("pairs name two players twice")
        return self


def cross_play(
    players: RunPlayers,
    snapshots: Sequence[SnapshotRow],
    games: int,
    seed: int,
    file: Path,
    progress: Progress | None = None,
) -> CrossTable:
    """Play what is missing until every pair has ``games`` games, and write each pair's result at once.

    Args:
        players: of the run; its game has two teams.
        snapshots: of its league; the scripted players of its game take part as well.
        games: of each pair; even, so that both play each side equally often.
        seed: of the games that are missing.
        file: holds the games played so far; none if it doesn't exist.
        progress: called with (missing games finished, missing games in all).

    Raises:
        UserError: the file or a snapshot is damaged.
        RunFailedError: the environment failed or hung, or the disk is full or refuses.
    """
    scripted = scripted_players(players.factory.spec)
    participants = [Participant(name, "") for name in scripted]
    participants += [Participant(row.name, row.sha256) for row in snapshots]
    records = {record.players: record for record in _read(file).pairs}
    pairs = {pair: records.get(pair, PairRecord(players=pair)) for pair in combinations(participants, 2)}
    missing = {pair: games - record.games for pair, record in pairs.items() if record.games < games}
    ready: dict[str, Player] = {**scripted}
    done, step_timeout_s = 0, players.config.runtime.step_timeout_s
    for pair, count in missing.items():
        for name, _ in pair:
            if name not in ready:
                ready[name] = players.entrant(name).player
        reported = None if progress is None else _after(done, sum(missing.values()), progress)
        match_seed = _match_seed(seed, pairs[pair])
        pair_players = [ready[name] for name, _ in pair]
        with torch_threads(players.threads):
            result = play_timed(players.factory, step_timeout_s, pair_players, count, match_seed, reported)
        records[pair] = pairs[pair] = pairs[pair].with_games(result)
        done += count
        write_or_refuse(file, _Records(pairs=tuple(records.values())).model_dump_json().encode())
    return _table([each.name for each in participants], pairs.values())


def evenly_spread(snapshots: Sequence[SnapshotRow], most: int) -> list[SnapshotRow]:
    """At most this many of them, the last one always and with room for two the first one too."""
    if len(snapshots) <= most:
        return list(snapshots)
    indices = np.linspace(len(snapshots) - 1, 0, most).round().astype(int)
    return [snapshots[index] for index in reversed(indices.tolist())]


def _after(done: int, total: int, progress: Progress) -> Progress:
    """Reports a match's games as a part of all."""
    return lambda now, _: progress(done + now, total)


def _match_seed(seed: int, record: PairRecord) -> int:
    """Another one for every pair, and for what is played on top of earlier games."""
    names = [zlib.crc32(name.encode()) for name, _ in record.players]
    return int(np.random.SeedSequence([seed, *names, record.games]).generate_state(1)[0] >> 1)


def _read(file: Path) -> _Records:
    try:
        return read_typed(_Records, file, "remove it to play again")
    except FileNotFoundError:
        return _Records()


def _table(names: list[str], records: Iterable[PairRecord]) -> CrossTable:
    index_of = {name: index for index, name in enumerate(names)}
    rates: list[list[float | None]] = [[None] * len(names) for _ in names]
    games = [[0] * len(names) for _ in names]
    for record in records:
        a, b = (index_of[name] for name, _ in record.players)
        rates[a][b], rates[b][a] = record.win_rate, 1 - record.win_rate
        games[a][b] = games[b][a] = record.games
    return CrossTable(names=tuple(names), win_rates=tuple(map(tuple, rates)), games=tuple(map(tuple, games)))
