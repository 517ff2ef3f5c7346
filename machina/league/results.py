"""Who won a game, and results of many games added up for each pair of players."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from machina.types import GameResult


def winner(result: GameResult) -> int | None:
    """Index of the team whose score is strictly the highest; None for a draw and where there is only one team."""
    best = max(result.scores)
    if len(result.scores) < 2 or result.scores.count(best) > 1:
        return None
    return result.scores.index(best)


def outcome(result: GameResult, team: int) -> Literal["win", "draw", "loss"]:
    """What a game was for a team; a draw if it shares the highest score."""
    best = winner(result)
    if best is None:
        return "draw" if result.scores[team] == max(result.scores) else "loss"
    return "win" if best == team else "loss"


class PairResults:
    """Wins and draws of every pair of players.

    A game of several teams counts as one game between each two of them, the higher score winning (the full pairing
    of Weng and Lin 2011); two teams of the same player say nothing and count as none.
    """

    def __init__(self) -> None:
        self._games: dict[str, int] = {}
        self._wins: dict[tuple[str, str], int] = {}
        self._draws: dict[tuple[str, str], int] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which they first played."""
        return tuple(self._games)

    def games(self, name: str) -> int:
        """That a player took part in."""
        return self._games.get(name, 0)

    def record(self, players: Iterable[str], scores: Iterable[float]) -> None:
        """Count a game.

        Args:
            players: one per team.
            scores: of the teams, the higher the better.
        """
        teams = list(zip(players, scores, strict=True))
        for name in dict.fromkeys(player for player, _ in teams):
            self._games[name] = self._games.get(name, 0) + 1
        for (a, score_a), (b, score_b) in itertools.combinations(teams, 2):
            if a == b:
                continue
            counts, pair = self._wins, (a, b) if score_a > score_b else (b, a)
            if score_a == score_b:
                counts, pair = self._draws, (min(a, b), max(a, b))
            counts[pair] = counts.get(pair, 0) + 1

    def wins(self, a: str, b: str) -> float:
        """Of ``a`` against ``b``, a draw counting half."""
        return self._wins.get((a, b), 0) + self._draws.get((min(a, b), max(a, b)), 0) / 2

    def state(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "games": dict(self._games),
            "wins": [[*pair, count] for pair, count in self._wins.items()],
            "draws": [[*pair, count] for pair, count in self._draws.items()],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``; what was counted before is forgotten."""
        self._games = dict(state["games"])
        self._wins = {(a, b): count for a, b, count in state["wins"]}
        self._draws = {(a, b): count for a, b, count in state["draws"]}
