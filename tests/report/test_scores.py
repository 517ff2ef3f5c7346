"""Human-normalized scores and aggregates, against published numbers and naive definitions."""

from __future__ import annotations

import numpy as np
import pytest

from machina.errors import UserError
from machina.report.scores import (
    PUBLISHED,
    aggregate,
    aggregate_normalized,
    bootstrap_interval,
    human_normalized,
    interquartile_mean,
    mean,
    published_scores,
    score_table,
)


@pytest.mark.parametrize(
    ("column", "median", "average"),
    [
        # Recomputed from the papers' per-game tables; the papers' own aggregates differ from them by rounding:
        # IMPALA prints 93.2 / 466.4, 191.8 / 957.6 and 59.7 / 176.9, Ape-X 434.1 / 1695.6, R2D2 1920.6 / 4024.9.
        ("impala_shallow", 93.23, 466.06),
        ("impala_deep", 191.82, 957.28),
        ("impala_deep_multitask", 59.71, 176.61),
        ("ape_x", 434.08, 1694.92),
        ("r2d2", 1922.73, 4024.93),
    ],
)
def test_published_aggregates(column: str, median: float, average: float) -> None:
    total = aggregate_normalized(list(published_scores(column).values()))
    assert total.games == 57
    assert 100 * total.median.value == pytest.approx(median, abs=0.006)
    assert 100 * total.mean.value == pytest.approx(average, abs=0.006)
    for interval in total[1:]:
        assert interval.low < interval.value < interval.high


def test_table_is_whole() -> None:
    table = score_table()
    assert len(table) == 57
    for row in table.values():
        assert {"random", "human", *PUBLISHED} <= row.keys()
        assert row["human"] > row["random"]
    assert table["video_pinball"]["random"] == 0.0
    with pytest.raises(UserError, match="did you mean 'impala_deep'"):
        published_scores("impala_deeep")


def test_human_normalized() -> None:
    assert human_normalized("pong", -20.7) == 0.0
    assert human_normalized("pong", 14.6) == 1.0
    assert human_normalized("pong", 21.0) == pytest.approx((21.0 + 20.7) / (14.6 + 20.7))
    assert human_normalized("CartPole-v1", 500.0) is None


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 57])
def test_interquartile_mean_against_its_definition(count: int) -> None:
    scores = np.random.default_rng(count).normal(size=count)
    ordered = sorted(scores)
    for _ in range(count // 4):
        ordered = ordered[1:-1]
    assert interquartile_mean(scores) == pytest.approx(sum(ordered) / len(ordered))
    assert interquartile_mean(np.stack([scores, scores + 1])) == pytest.approx([np.mean(ordered), np.mean(ordered) + 1])


def test_bootstrap_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        interval = bootstrap_interval(generator.normal(3.0, 2.0, size=57), mean, generator)
        covered += interval.low <= 3.0 <= interval.high
    # 95 % of 200 is 190 with a standard deviation of 3; the percentile bootstrap is a little narrow.
    assert 178 <= covered <= 199


def test_aggregate_of_episodes() -> None:
    returns = {"pong": [21.0, 20.0], "breakout": [30.5], "alien": [], "CartPole-v1": [500.0]}
    total = aggregate(returns)
    assert total is not None
    pong = human_normalized("pong", 20.5)
    assert pong is not None
    assert total.games == 2
    assert total.mean.value == pytest.approx((pong + 1.0) / 2)
    assert aggregate(returns) == total
    assert aggregate({"CartPole-v1": [500.0]}) is None
    with pytest.raises(UserError, match="no game"):
        aggregate_normalized([])
