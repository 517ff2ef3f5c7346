import itertools
import json
import math

import numpy as np
import pytest

from machina.league.ratings import BETA, PRIOR_SIGMA, Ratings, inverse_mills, win_probability
from machina.league.results import PairResults

ANCHORS = {"random": 0.0, "scripted": 12.0}


def true_win(difference: float) -> float:
    """Phi(difference / (sqrt(2) beta))."""
    return math.erfc(-difference / (math.sqrt(2) * BETA) / math.sqrt(2)) / 2


def simulated(ratings: Ratings, strengths: dict[str, float], games: int, seed: int, margin: float = 0.0) -> None:
    """Randomly paired games of players of known strength; performances that differ by less than ``margin`` draw."""
    rng = np.random.default_rng(seed)
    pairs = [pair for pair in itertools.combinations(strengths, 2) if not set(pair) <= set(ANCHORS)]
    for pair in rng.integers(len(pairs), size=games):
        a, b = pairs[pair]
        lead = strengths[a] - strengths[b] + math.sqrt(2) * BETA * rng.standard_normal()
        ratings.record((a, b), (0, 0) if abs(lead) < margin else (lead, -lead))


def errors(ratings: Ratings, strengths: dict[str, float]) -> tuple[float, float]:
    """Largest errors of the predicted win rates against the measured ones and against the truth."""
    results = PairResults()
    results.load_state(ratings.state())
    mu = {row.name: row.mu for row in ratings.table()}
    measured = [
        abs(win_probability(mu[a] - mu[b]) - results.wins(a, b) / games)
        for a, b in itertools.permutations(results.names, 2)
        if (games := results.wins(a, b) + results.wins(b, a))
    ]
    truth = [
        abs(win_probability(mu[a] - mu[b]) - true_win(strengths[a] - strengths[b]))
        for a, b in itertools.permutations(strengths, 2)
    ]
    return max(measured), max(truth)


@pytest.mark.parametrize("seed", range(5))
def test_players_of_known_strength_are_recovered(seed: int) -> None:
    rng = np.random.default_rng(seed)
    climb = 1.5 + 2 * np.arange(10) + rng.uniform(-0.4, 0.4, 10)
    strengths = ANCHORS | {f"u{i}": float(strength) for i, strength in enumerate(rng.permutation(climb))}
    ratings = Ratings(ANCHORS)
    simulated(ratings, strengths, games=65 * 1000, seed=seed)
    table = ratings.table()
    assert [row.name for row in table] == sorted(strengths, key=lambda name: -strengths[name])
    against_table, against_truth = errors(ratings, strengths)
    assert against_table < 0.05
    assert against_truth < 0.03
    for row in table:
        if row.name in ANCHORS:
            assert (row.mu, row.sigma) == (ANCHORS[row.name], 0.0)
        else:
            assert abs(row.mu - strengths[row.name]) < 4 * row.sigma < 1.0
            assert row.games > 9000


@pytest.mark.parametrize("margin", [0.2, 2.0, 5.0])
def test_draws_count_half_whatever_their_share(margin: float) -> None:
    """3, 27 and 60 % of the games of equals are draws."""
    strengths = {"random": 0.0} | {f"u{i}": 2.0 + 3 * i for i in range(5)}
    ratings = Ratings({"random": 0.0})
    simulated(ratings, strengths, games=20_000, seed=3, margin=margin)
    assert errors(ratings, strengths)[0] < 0.05
    assert [row.name for row in ratings.table()] == ["u4", "u3", "u2", "u1", "u0", "random"]


def test_draws_of_equals_leave_them_equal_and_never_widen_their_deviation() -> None:
    """With a rate of draws that is held to be 0 they would: TrueSkill's sigma goes from 8.3 to 20.6 in ten draws."""
    ratings = Ratings({"random": 0.0})
    before = PRIOR_SIGMA
    for _ in range(10):
        ratings.record(("a", "b"), (0, 0))
        ratings.record(("a", "random"), (1, 0))
        ratings.record(("b", "random"), (1, 0))
        a, b = (row for row in ratings.table() if row.name != "random")
        assert a.mu == pytest.approx(b.mu, abs=1e-6)
        assert a.sigma == pytest.approx(b.sigma, abs=1e-6)
        assert a.sigma < before
        before = a.sigma


@pytest.mark.parametrize("others", [0, 3])
def test_a_draw_of_equals_makes_both_surer(others: int) -> None:
    ratings = Ratings({"random": 0.0})
    for _ in range(others):
        for name in ("a", "b"):
            ratings.record((name, "random"), (1, 0))
            ratings.record((name, "random"), (0, 1))
    before = dict.fromkeys(("a", "b"), PRIOR_SIGMA) if not others else {r.name: r.sigma for r in ratings.table()}
    for _ in range(10):
        ratings.record(("a", "b"), (0, 0))
        rows = {row.name: row for row in ratings.table() if row.name != "random"}
        assert rows["a"].mu == pytest.approx(0, abs=1e-6)
        assert rows["b"].mu == pytest.approx(0, abs=1e-6)
        assert all(row.sigma < before[name] for name, row in rows.items())
        before = {name: row.sigma for name, row in rows.items()}


def test_a_climb_far_above_the_anchors_is_followed_with_honest_uncertainty() -> None:
    """As in a league: 60 snapshots, each 20 games against both anchors and 10 against four former snapshots."""
    rng = np.random.default_rng(7)
    strengths = {f"u{i}": 30.0 * i / 59 for i in range(60)}
    ratings = Ratings(ANCHORS)
    known = dict(ANCHORS)
    for i, (name, strength) in enumerate(strengths.items()):
        against = [("random", 20), ("scripted", 20)] + [(f"u{j}", 10) for j in {i - 1, i - 2, i - 5, i // 2} if j >= 0]
        for opponent, games in against:
            for _ in range(games if opponent != name else 0):
                won = rng.random() < true_win(strength - known[opponent])
                ratings.record((name, opponent), (1, 0) if won else (0, 1))
        known[name] = strength
    rated = {row.name: row for row in ratings.table()}
    deviations = [(rated[name].mu - strength) / rated[name].sigma for name, strength in strengths.items()]
    assert np.sqrt(np.mean(np.square(deviations))) < 1.5
    assert np.corrcoef([rated[name].mu for name in strengths], list(strengths.values()))[0, 1] > 0.98


def slow_log_posterior(points: float, wins: dict[str, int], losses: dict[str, int]) -> float:
    """Of one player who met anchors only."""
    density = -((points / PRIOR_SIGMA) ** 2) / 2
    density += sum(n * math.log(true_win(points - ANCHORS[name])) for name, n in wins.items())
    return density + sum(n * math.log(true_win(ANCHORS[name] - points)) for name, n in losses.items())


@pytest.mark.parametrize(
    ("wins", "losses"),
    [
        ({"random": 7, "scripted": 2}, {"random": 3, "scripted": 8}),
        ({"random": 40}, {}),
        ({}, {"random": 40}),
        ({"scripted": 1}, {"random": 1}),
    ],
)
def test_mode_and_curvature_are_those_of_the_posterior(wins: dict[str, int], losses: dict[str, int]) -> None:
    ratings = Ratings(ANCHORS)
    for name, count in wins.items():
        for _ in range(count):
            ratings.record(("u1", name), (1, 0))
    for name, count in losses.items():
        for _ in range(count):
            ratings.record((name, "u1"), (1, 0))
    (row,) = [row for row in ratings.table() if row.name == "u1"]
    grid = np.linspace(-30, 30, 60_001)
    density = [slow_log_posterior(points, wins, losses) for points in grid]
    best = grid[np.argmax(density)]
    assert row.mu == pytest.approx(best, abs=2e-3)
    h = 0.01
    second = sum(
        factor * slow_log_posterior(row.mu + step, wins, losses) for factor, step in ((1, -h), (-2, 0), (1, h))
    )
    assert row.sigma == pytest.approx((-second / h**2) ** -0.5, rel=1e-3)
    assert row.games == sum(wins.values()) + sum(losses.values())


def test_the_slope_of_a_win_is_exact_for_any_lead() -> None:
    x = np.array([-60.0, -36.0, -12.0, -8.2, -8.0, -7.9, -2.0, 0.0, 1.0, 8.0, 40.0])
    # phi / Phi by its continued fraction |x| + 1/(|x| + 2/(|x| + ...)) below -2, by erfc above.
    expected = []
    for each in x:
        if each > -2:
            density = math.exp(-(each**2) / 2) / math.sqrt(2 * math.pi)
            expected.append(density / (math.erfc(-each / math.sqrt(2)) / 2))
            continue
        tail = 0.0
        for k in range(400, 0, -1):
            tail = k / (abs(each) + tail)
        expected.append(abs(each) + tail)
    np.testing.assert_allclose(inverse_mills(x), expected, rtol=1e-12)


@pytest.mark.parametrize("upsets", [(7, 1, 2, 6), (8, 0, 1, 5), (8, 0, 0, 4)])
def test_an_upset_far_above_is_rated(upsets: tuple[int, int, int, int]) -> None:
    """Won and drawn against random play, won and drawn against a player 72.9 points above it; others are lost."""
    ratings = Ratings({"random": 0.0, "nearest": 72.9})
    for name, won, drawn in zip(("random", "nearest"), upsets[::2], upsets[1::2], strict=True):
        for game in range(8):
            score = 1 if game < won else 0 if game < won + drawn else -1
            ratings.record(("u1", name), (score, -score))
    (row,) = [row for row in ratings.table() if row.name == "u1"]
    assert 0 < row.mu < 72.9
    assert 1 < row.sigma < 4


def test_anchors_stay_where_they_are_after_every_game() -> None:
    ratings = Ratings(ANCHORS)
    former = 0.0
    for _ in range(5):
        ratings.record(("u1", "random"), (1, 0))
        ratings.record(("scripted", "random"), (0, 1))
        rows = {row.name: row for row in ratings.table()}
        assert {name: rows[name].mu for name in ANCHORS} == ANCHORS
        assert rows["u1"].mu > former
        former = rows["u1"].mu


def test_ratings_do_not_depend_on_the_order_of_games_and_survive_json() -> None:
    games = [(("u1", "u2"), (1, 0)), (("u2", "random"), (1, 0)), (("random", "u1"), (0, 0)), (("u2", "u1"), (3, 1))] * 3
    forward, backward, again = Ratings(ANCHORS), Ratings(ANCHORS), Ratings(ANCHORS)
    for players, scores in games:
        forward.record(players, scores)
    for players, scores in reversed(games):
        backward.record(players, scores)
    for row, other in zip(forward.table(), backward.table(), strict=True):
        assert row.name == other.name
        assert row.mu == pytest.approx(other.mu, abs=1e-8)
        assert row.sigma == pytest.approx(other.sigma, abs=1e-8)
    again.record(("u9", "u8"), (1, 0))
    again.load_state(json.loads(json.dumps(forward.state())))
    assert again.table() == forward.table()
    for each in (again, forward):
        each.record(("u2", "u3"), (1, 0))
    assert again.state() == forward.state()
    assert again.table() == forward.table()


@pytest.mark.parametrize("games", [1, 40, 10_000])
def test_one_sided_results_end_somewhere(games: int) -> None:
    ratings = Ratings(ANCHORS)
    for a, b in (("u1", "random"), ("u2", "u1"), ("u3", "u2"), ("random", "u0")):
        for _ in range(games):
            ratings.record((a, b), (1, 0))
    rows = ratings.table()
    names = [row.name for row in rows if row.name != "scripted"]
    assert names == ["u3", "u2", "u1", "random", "u0"]
    assert all(math.isfinite(row.mu) and 0 <= row.sigma < PRIOR_SIGMA for row in rows)


def test_a_game_of_three_teams_counts_for_each_pair() -> None:
    pairs = PairResults()
    pairs.record(("a", "b", "c"), (2, 1, 1))
    pairs.record(("a", "b", "b"), (0, 1, 2))
    assert pairs.names == ("a", "b", "c")
    assert [pairs.games(name) for name in "abcd"] == [2, 2, 1, 0]
    assert (pairs.wins("a", "b"), pairs.wins("b", "a"), pairs.wins("a", "c"), pairs.wins("b", "c")) == (1, 2, 1, 0.5)


def test_a_draw_is_half_a_win_of_each_and_who_never_met_has_none() -> None:
    pairs = PairResults()
    for players, scores in ((("a", "b"), (1, 0)), (("b", "a"), (1, 1)), (("c", "a"), (0, 1)), (("c", "c"), (0, 1))):
        pairs.record(players, scores)
    assert pairs.names == ("a", "b", "c")
    wins = {a: [pairs.wins(a, b) for b in "abc"] for a in "abc"}
    assert wins == {"a": [0, 1.5, 1], "b": [0.5, 0, 0], "c": [0, 0, 0]}
