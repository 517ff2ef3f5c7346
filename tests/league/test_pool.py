import json
import math
import pickle

import pytest
import torch

from machina.league.pool import Meetings, Pool, PoolView, Snapshot
from machina.types import PRESENT_SELF, GameResult

ETA = 0.01


def snapshot(number: int) -> Snapshot:
    return Snapshot(f"u{number:06d}", number, 10 * number, f"{number:064d}")


def pool_of(count: int) -> Pool:
    pool = Pool(ETA)
    for number in range(count):
        pool.add(snapshot(number))
    return pool


def game(own_team: int, scores: tuple[float, float], name: str, probability: float = 0.5) -> GameResult:
    players = (PRESENT_SELF, name) if own_team == 0 else (name, PRESENT_SELF)
    return GameResult(players, scores, 9, probability)


def test_a_win_lowers_the_quality_by_eta_over_n_p() -> None:
    pool = pool_of(2)
    assert pool.probabilities == (0.5, 0.5)
    pool.record_win("u000000", 0.5)
    assert pool.qualities == (-0.01 / (2 * 0.5), 0.0)
    # softmax of (-0.01, 0)
    assert pool.probabilities == pytest.approx((math.exp(-0.01) / (math.exp(-0.01) + 1), 1 / (math.exp(-0.01) + 1)))


def test_the_step_is_that_of_the_draw_not_of_the_end() -> None:
    pool = pool_of(1)
    drawn_with = pool.probabilities[0]
    pool.add(snapshot(1))  # while the game lasts
    pool.record(game(0, (1, 0), "u000000", drawn_with))
    assert pool.qualities == (-0.01 / (2 * 1.0), 0.0)


def test_expected_quality_falls_alike_however_seldom_a_snapshot_is_drawn() -> None:
    pool = pool_of(3)
    for _ in range(150):
        pool.record_win("u000001", 1 / 3)
    before, probabilities = pool.qualities, pool.probabilities
    assert probabilities[1] < 0.15
    falls = []
    for i, name in enumerate(("u000000", "u000001", "u000002")):
        pool.record_win(name, probabilities[i])
        falls.append(probabilities[i] * (before[i] - pool.qualities[i]))
    assert falls == pytest.approx([ETA / 3] * 3)


def test_a_new_snapshot_takes_the_highest_quality() -> None:
    pool = pool_of(2)
    pool.record_win("u000000", 0.5)
    pool.record_win("u000001", 0.25)
    pool.add(snapshot(2))
    assert pool.qualities == (-0.01, -0.02, -0.01)


def test_only_wins_of_the_present_self_change_qualities_and_all_are_counted() -> None:
    pool = pool_of(2)
    pool.record(game(0, (0, 1), "u000000"))
    pool.record(game(1, (2, 2), "u000000"))
    pool.record(GameResult((PRESENT_SELF, PRESENT_SELF), (1, 0), 9))
    assert pool.qualities == (0.0, 0.0)
    pool.record(game(1, (0, 1), "u000000"))
    pool.record(game(1, (1, 0), "u000001"))
    assert pool.qualities == (-0.01, 0.0)
    assert pool.meetings == (Meetings(wins=1, losses=1, draws=1), Meetings(losses=1))
    assert [met.games for met in pool.meetings] == [3, 1]


def test_among_three_teams_the_opponents_own_draw_is_a_loss() -> None:
    pool = pool_of(1)
    players = (PRESENT_SELF, "u000000", "u000000")
    pool.record(GameResult(players, (0, 1, 1), 9, 1.0))
    pool.record(GameResult(players, (1, 1, 0), 9, 1.0))
    assert pool.meetings == (Meetings(losses=1, draws=1),)


def test_the_state_survives_json_bit_for_bit() -> None:
    pool = pool_of(3)
    for i in range(50):
        pool.record(game(i % 2, (i % 3, i % 5), f"u00000{i % 3}", 0.1 + i / 77))
    again = Pool(ETA)
    again.load_state(json.loads(json.dumps(pool.state())))
    for each in (pool, again):
        each.add(snapshot(3))
        each.record_win("u000002", each.probabilities[2])
    assert again.state() == pool.state()
    assert again.snapshots == pool.snapshots
    assert (again.qualities, again.probabilities) == (pool.qualities, pool.probabilities)
    assert again.meetings == pool.meetings


def test_a_view_stays_as_it_was_and_can_be_sent() -> None:
    pool = pool_of(2)
    tensors = [torch.ones(3), torch.zeros(3)]
    view = pool.view(tensors, pool_share=0.2)
    pool.record_win("u000000", 0.5)
    pool.add(snapshot(2))
    assert view.names == ("u000000", "u000001")
    assert view.probabilities == (0.5, 0.5)
    sent: PoolView = pickle.loads(pickle.dumps(view))
    assert sent._replace(parameters=()) == view._replace(parameters=())
    assert torch.equal(sent.parameters[0], tensors[0])


def test_wrong_use_is_refused() -> None:
    pool = pool_of(1)
    with pytest.raises(ValueError, match="already"):
        pool.add(snapshot(0))
    with pytest.raises(ValueError, match="1 snapshots need as many parameters, got 0"):
        pool.view([], 0.2)
    with pytest.raises(ValueError, match="not a name"):
        pool.add(snapshot(5)._replace(name=PRESENT_SELF))
    with pytest.raises(ValueError, match="not a name"):
        pool.add(snapshot(5)._replace(name="two\nlines"))


def test_an_empty_pool_has_no_probabilities() -> None:
    assert Pool(ETA).probabilities == ()
