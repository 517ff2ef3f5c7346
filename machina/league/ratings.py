"""Ratings of players from the results of their games.

Only rating games may be recorded here: games that were set up beforehand (who, how often, on which seats), such as
``machina.play.matches`` plays. Training games are not: the pool draws their opponents by how hard they still are to
beat, and the present self changes while they last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from machina.league.results import PairResults
from machina.types import IntArray

Points = npt.NDArray[np.float64]

BETA = 25 / 6
"""Spread of a player's performance from game to game (appendix J); 4.96 points of difference win 80 % of games."""

PRIOR_SIGMA = 25.0
"""Of a player without games, around the origin. Wide on purpose: snapshots climb far from where random play stands,
and TrueSkill's 25/3 pulled the end of a climb of 40 points back by 10 (100 snapshots, 80 games each)."""

CONVERGED = 1e-9
"""Largest step of a rating, in points, after which the refit ends."""

MOST_STEPS = 100
"""Newton's method takes about 10; what rounding keeps from converging further ends here."""


class Rating(NamedTuple):
    """A player's strength in points above the origin."""

    name: str
    mu: float
    sigma: float
    """Standard deviation of ``mu``; 0 of an anchor."""
    games: int


def win_probability(lead: float) -> float:
    """Of a player who is ``lead`` points above the other, a draw counting half: Phi(lead / (sqrt(2) beta))."""
    return 0.5 * (1 + math.erf(lead / (2 * BETA)))


class Ratings:
    """Ratings of all players of a league on one scale, from all their games at once.

    The model is Thurstone-Mosteller with full pairing (Weng and Lin 2011, algorithm 3). Constants are those of OpenAI
    Five's TrueSkill (Berner et al. 2019, appendix J) but for the prior: beta 25/6, tau 0, the origin where random play
    is.

    One pass of online updates over the games (openskill's) is not precise enough: after 300 games of each pair of 14
    simulated players it missed a win rate by 0.07 (Bradley-Terry and Plackett-Luce by 0.3), since what a game says of
    a player depends on what was known of the other then. So the ratings are fitted to all results when they are asked
    for: the maximum of the posterior by Newton's method, and the inverse curvature there as covariance. The worst of
    those win rates is then off by 0.03. Ratings depend on the results alone, not on their order.

    A draw counts as half a win of each side, as in the cross-table, so that draws need no rate of their own.

    Args:
        anchors: players held fixed, with their points: random play at 0, and what was measured once for the game's
            scripted player. They make ratings mean the same from run to run.
    """

    def __init__(self, anchors: Mapping[str, float]) -> None:
        self._anchors = dict(anchors)
        self._results = PairResults()
        self._fitted: _Fit | None = None

    def record(self, players: Sequence[str], scores: Sequence[float]) -> None:
        """Count a game; only players that are no anchors are moved by it.

        Args:
            players: one per team.
            scores: of the teams, the higher the better.
        """
        self._results.record(players, scores)
        self._fitted = None

    def table(self) -> tuple[Rating, ...]:
        """Anchors and everybody who played, the best first."""
        fit = self._fit()
        names = dict.fromkeys([*self._anchors, *self._results.names])
        rows = [Rating(name, *fit.of(name), self._results.games(name)) for name in names]
        return tuple(sorted(rows, key=lambda row: -row.mu))

    def state(self) -> dict[str, Any]:
        """All results, for JSON; the ratings follow from them and the anchors."""
        return self._results.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``; what was recorded before is forgotten."""
        self._results.load_state(state)
        self._fitted = None

    def _fit(self) -> _Fit:
        if self._fitted is None:
            self._fitted = _fitted(self._results, self._anchors)
        return self._fitted


class _Fit(NamedTuple):
    """The posterior of the players' points, as a normal distribution."""

    place: dict[str, int]
    """Of each player in the arrays; anchors among them."""
    mu: Points
    """``[K]``."""
    covariance: Points
    """``[K, K]``; 0 for anchors."""

    def of(self, name: str) -> tuple[float, float]:
        """mu and sigma."""
        i = self.place[name]
        return float(self.mu[i]), math.sqrt(self.covariance[i, i])


def inverse_mills(x: Points) -> Points:
    """phi(x) / Phi(x), the slope of log Phi(x): V of Weng and Lin 2011, algorithm 3, without a margin for draws.

    Their W(x) = V(x) (V(x) + x) is minus its derivative. By way of erfcx it is exact for any x; where Phi is a
    difference from 1, as in openskill 6.2, it is noise below -8, and the fit breaks down at an upset of 45 points.
    """
    ratio: Points = math.sqrt(2 / math.pi) / torch.special.erfcx(torch.from_numpy(-x / math.sqrt(2))).numpy()
    return ratio


class _Posterior:
    """Slope and curvature of the logarithm of the posterior density."""

    def __init__(self, results: PairResults, index: Mapping[str, int]) -> None:
        won = [(a, b, results.wins(a, b)) for a in results.names for b in results.names if a != b]
        won = [row for row in won if row[2]]
        self._winner: IntArray = np.array([index[a] for a, _, _ in won], np.int64)
        self._loser: IntArray = np.array([index[b] for _, b, _ in won], np.int64)
        self._games = np.array([games for _, _, games in won], np.float64)
        self._size = len(index)
        self._c = math.sqrt(2) * BETA

    def _differences(self, mu: Points) -> Points:
        differences: Points = (mu[self._winner] - mu[self._loser]) / self._c
        return differences

    def slope(self, mu: Points) -> Points:
        """``[K]``: derivative by each player's points."""
        pull = self._games * inverse_mills(self._differences(mu)) / self._c
        slope = -mu / PRIOR_SIGMA**2
        np.add.at(slope, self._winner, pull)
        np.add.at(slope, self._loser, -pull)
        return slope

    def curvature(self, mu: Points) -> Points:
        """``[K, K]``: minus the second derivatives; positive definite."""
        differences = self._differences(mu)
        pulls = inverse_mills(differences)
        stiffness = self._games * pulls * (pulls + differences) / self._c**2
        curvature = np.eye(self._size) / PRIOR_SIGMA**2
        for sign, i, j in (
            (1, self._winner, self._winner),
            (1, self._loser, self._loser),
            (-1, self._winner, self._loser),
            (-1, self._loser, self._winner),
        ):
            np.add.at(curvature, (i, j), sign * stiffness)
        return curvature


def _fitted(results: PairResults, anchors: Mapping[str, float]) -> _Fit:
    """The maximum of the posterior and the covariance there.

    The logarithm of the posterior is concave, so Newton's method arrives if its steps are cut where they lead down
    again on the other side as steeply as half of where they began.
    """
    index = {name: i for i, name in enumerate(dict.fromkeys([*anchors, *results.names]))}
    posterior = _Posterior(results, index)
    mu = np.array([anchors.get(name, 0.0) for name in index])
    free = np.arange(len(anchors), len(index))
    slope = posterior.slope(mu)
    for _ in range(MOST_STEPS):
        step = np.zeros_like(mu)
        step[free] = np.linalg.solve(posterior.curvature(mu)[np.ix_(free, free)], slope[free])
        while (there := posterior.slope(mu + step)) @ step < -0.5 * (slope @ step):
            step /= 2
        mu, slope = mu + step, there
        if np.abs(step).max(initial=0.0) < CONVERGED:
            break
    covariance = np.zeros((len(index), len(index)))
    covariance[np.ix_(free, free)] = np.linalg.inv(posterior.curvature(mu)[np.ix_(free, free)])
    return _Fit(index, mu, covariance)
