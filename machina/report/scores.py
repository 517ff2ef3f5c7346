"""Human-normalized Atari scores and their aggregates over games.

Sources of ``atari57_scores.csv``, one row per game, blank where nothing is published:

===========================  ====================================================================================
``random``, ``human``        The table of the Agent57 and MuZero papers (arXiv 2003.13350, 1911.08265), as copied
                             by rliable; DQN Zoo, Dopamine and R2D2's Table 4 agree to one decimal (R2D2 rounds
                             three human scores differently by 0.1).
``random_alt``               The one disagreement: DQN Zoo gives 16256.9 for video_pinball, three others 0.0. With
                             0.0 the table reproduces the published aggregates of Agent57, R2D2 and MuZero.
``impala_*``                 IMPALA (arXiv 1802.01561), Table C.1: experts with the shallow and the deep network and
                             one deep multi-task agent; 200M frames per game.
``popart_impala_multitask``  Empty: PopArt (arXiv 1809.04474) publishes no score per game.
``ape_x``                    Ape-X (arXiv 1803.00933), best during 22.8B frames.
``r2d2``                     R2D2 (OpenReview r1lyTjAqYX), Table 4, final scores, three seeds.
===========================  ====================================================================================

All of them start with up to 30 no-ops and cut an episode at 108,000 frames.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from machina.errors import UserError, nearest

PUBLISHED = {
    "impala_shallow": "IMPALA, shallow net, one agent per game",
    "impala_deep": "IMPALA, deep net, one agent per game",
    "impala_deep_multitask": "IMPALA, deep net, one agent for all games",
    "ape_x": "Ape-X",
    "r2d2": "R2D2",
}
"""Columns of published scores and what they are."""

Scores = npt.NDArray[np.float64]
BOOTSTRAP_SAMPLES = 2000
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A statistic with the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class Aggregate(NamedTuple):
    """Human-normalized scores over games, as fractions (1.0 is human)."""

    games: int
    median: Interval
    mean: Interval
    interquartile_mean: Interval


@cache
def score_table() -> Mapping[str, Mapping[str, float]]:
    """``{game: {column: score}}``; a blank cell has no entry."""
    text = files("machina.report").joinpath("atari57_scores.csv").read_text(encoding="utf-8")
    return {
        row.pop("game"): {column: float(cell) for column, cell in row.items() if cell}
        for row in csv.DictReader(text.splitlines())
    }


def human_normalized(game: str, score: float) -> float | None:
    """``(score - random) / (human - random)``: 0 is random play, 1 is human; None for a game without references."""
    row = score_table().get(game)
    return None if row is None else (score - row["random"]) / (row["human"] - row["random"])


def published_scores(column: str) -> dict[str, float]:
    """Human-normalized scores of a published column, by game.

    Raises:
        UserError: there is no such column.
    """
    if column not in PUBLISHED:
        raise UserError(
            f"unknown published column {column!r}{nearest(column, PUBLISHED)}; known: {', '.join(PUBLISHED)}"
        )
    table = score_table()
    return {
        game: (row[column] - row["random"]) / (row["human"] - row["random"])
        for game, row in table.items()
        if column in row
    }


def median(scores: Scores) -> Scores:
    """Over the last axis."""
    return np.asarray(np.median(scores, axis=-1))


def mean(scores: Scores) -> Scores:
    """Over the last axis."""
    return np.asarray(scores.mean(axis=-1))


def interquartile_mean(scores: Scores) -> Scores:
    """Mean of the middle half over the last axis (arXiv 2108.13264, section 4.3).

    A quarter of the scores, rounded down to whole ones, is left out at each end, as ``scipy.stats.trim_mean``.
    """
    count = scores.shape[-1]
    cut = count // 4
    return np.asarray(np.sort(scores, axis=-1)[..., cut : count - cut].mean(axis=-1))


def bootstrap_interval(
    scores: Scores, statistic: Callable[[Scores], Scores], generator: np.random.Generator
) -> Interval:
    """95 % percentile bootstrap over the entries of ``scores`` ``[N]`` (the games).

    It says how much the statistic depends on which games were played, not how much on the seed of training.
    """
    drawn = scores[generator.integers(len(scores), size=(BOOTSTRAP_SAMPLES, len(scores)))]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(statistic(drawn), [tail, 1 - tail])
    return Interval(float(statistic(scores)), float(low), float(high))


def aggregate_normalized(scores: Sequence[float], seed: int = 0) -> Aggregate:
    """Aggregate human-normalized scores, one per game.

    Raises:
        UserError: there is no score.
    """
    if not scores:
        raise UserError("no game has a human-normalized score to aggregate; evaluate at least one Atari game")
    games = np.asarray(scores, dtype=np.float64)
    generator = np.random.default_rng(seed)
    return Aggregate(
        games=len(games),
        median=bootstrap_interval(games, median, generator),
        mean=bootstrap_interval(games, mean, generator),
        interquartile_mean=bootstrap_interval(games, interquartile_mean, generator),
    )


def aggregate(returns: Mapping[str, Sequence[float]], seed: int = 0) -> Aggregate | None:
    """Aggregate episode returns by game; games without references or episodes are left out, None when none is left."""
    scores = [
        score
        for game, episodes in returns.items()
        if episodes and (score := human_normalized(game, sum(episodes) / len(episodes))) is not None
    ]
    return aggregate_normalized(scores, seed) if scores else None
