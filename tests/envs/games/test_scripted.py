"""The scripted players of the shipped games."""

import numpy as np
import pytest
from game_players import HEURISTICS, Players, make

from machina.envs.games.scripted import SCRIPTED, random_player
from machina.specs import ActionSpec
from machina.types import ACTION_MASK


@pytest.mark.parametrize(("name", "games", "share"), [("connect_four", 100, 0.85), ("battle", 40, 0.95)])
def test_heuristics_beat_random_play(name: str, games: int, share: float) -> None:
    env = make(name, 20)
    players = Players(env, [HEURISTICS[name], "random"])
    players.swap_in_odd_games()
    seats = len(env.spec.seats)
    entry = env.reset(list(range(20 * seats)))
    summed, won, count = np.zeros(20 * seats), 0.0, 0
    while count < games:
        entry = env.step(players.act(entry))
        summed += entry.score
        scores = summed.reshape(20, 2, -1).mean(axis=2)
        for game in np.flatnonzero((entry.terminated | entry.truncated).reshape(20, -1).all(axis=1)):
            mine, others = scores[game] if game % 2 == 0 else scores[game][::-1]
            won += float(mine > others) + 0.5 * (mine == others)
            count += 1
            summed.reshape(20, -1)[game] = 0
    assert won / count > share


def test_chase_hunts_and_flees_better_than_random_play() -> None:
    def mean_returns(hunters: str, hunted: str) -> tuple[float, float]:
        env = make("simple_tag", 60)
        players = Players(env, [hunters, hunted])
        entry, returns = env.reset(list(range(240))), np.zeros(240)
        for _ in range(25):
            entry = env.step(players.act(entry))
            returns += entry.reward
        assert entry.truncated.all()
        of_games = returns.reshape(60, 4)
        return float(of_games[:, 0].mean()), float(of_games[:, 3].mean())

    assert mean_returns("chase", "random")[0] > 3 * max(1.0, mean_returns("random", "random")[0])
    assert mean_returns("random", "chase")[1] > mean_returns("random", "random")[1]
    assert mean_returns("chase", "chase")[1] > mean_returns("chase", "random")[1]


@pytest.mark.parametrize("swapped", [False, True])
def test_follow_beats_random_play_in_pong(swapped: bool) -> None:
    env = make("pong_duel")
    players = Players(env, ["random", "follow"] if swapped else ["follow", "random"])
    entry, points = env.reset([1, 2]), np.zeros(2)
    while not (entry.terminated | entry.truncated).any():
        entry = env.step(players.act(entry))
        points += entry.reward
    assert entry.terminated.all()
    assert points[int(swapped)] > 10 + points[1 - int(swapped)]


def test_random_player_answers_every_kind_of_action() -> None:
    generator = np.random.default_rng(0)
    tasks = np.zeros(4000, np.int64)
    uniforms = generator.random((4000, 2), np.float32)
    mask = np.tile([True, False, True, False, False], (4000, 1))
    several = random_player(ActionSpec(kind="multi_discrete", choices=(3, 2)))({ACTION_MASK: mask}, tasks, uniforms)
    assert several.shape == (4000, 2)
    assert set(several[:, 0].tolist()) == {0, 2}
    assert abs((several[:, 0] == 0).mean() - 0.5) < 0.05
    free = random_player(ActionSpec(kind="multi_discrete", choices=(3, 2)))({}, tasks, uniforms)
    assert [np.bincount(column).min() > 1100 for column in free.T] == [True, True]
    numbers = random_player(ActionSpec(kind="continuous", low=(0.0, 0.0), high=(1.0, 2.0)))({}, tasks, uniforms)
    assert numbers.shape == (4000, 2)
    assert -1 <= numbers.min() < -0.95 < 0.95 < numbers.max() <= 1


def test_one_ply_wins_else_blocks() -> None:
    board = np.zeros((3, 6, 7, 2), np.int8)
    board[:, 5, :3, 1] = 1  # the other threatens column 3
    board[0, 2:5, 6, 0] = board[0, 5, 6, 1] = 1  # and so do I, in column 6
    board[2, 5, 3, 0] = 1  # blocked already
    mask = np.ones((3, 7), np.bool_)
    observation = {"observation": board, ACTION_MASK: mask}
    actions = SCRIPTED["connect_four"]["one_ply"](observation, np.zeros(3, np.int64), np.zeros(3, np.float32))
    assert actions[:2].tolist() == [6, 3]
    mask[2, :5] = False
    actions = SCRIPTED["connect_four"]["one_ply"](observation, np.zeros(3, np.int64), np.full(3, 0.999, np.float32))
    assert actions[2] == 6
