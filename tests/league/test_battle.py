"""Battle's winner is the team with fewer dead, whatever the rewards say: in matches and in training games alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from machina.actors.seating import Seating
from machina.envs.config import GameConfig
from machina.envs.games.battle import MOVES
from machina.envs.games.scripted import SCRIPTED
from machina.envs.games.table import game_factory
from machina.interfaces import SlotEnv
from machina.league.results import winner
from machina.play.matches import RulePlayer, play_match
from machina.types import Array, GameResult, StepResult

FIGHTERS = 6
"""Of each team."""

PLAYERS = {
    **{name: RulePlayer(name, choose) for name, choose in SCRIPTED["battle"].items()},
    "still": RulePlayer("still", lambda _, task_id, __: np.full(len(task_id), MOVES.index((0, 0)))),
    "twin": RulePlayer("twin", SCRIPTED["battle"]["nearest"]),
}


class RecordingFactory:
    """Builds Battle and keeps what happens in it."""

    def __init__(self) -> None:
        self._factory = game_factory("battle", GameConfig())
        self.spec = self._factory.spec
        self.entries: list[StepResult] = []
        """After each step."""
        self.world: Any = None
        """magent2's, of the first map."""

    def make(self, task_ids: Sequence[int], progress: Callable[[int], None] | None = None) -> SlotEnv:
        env = self._factory.make(task_ids, progress)
        self.world = env._games._envs[0]  # type: ignore[attr-defined]
        step = env.step

        def recorded(actions: Array) -> StepResult:
            self.entries.append(step(actions))
            return self.entries[-1]

        env.step = recorded  # type: ignore[method-assign]
        return env

    def make_for_video(self, task_id: int) -> SlotEnv:
        raise NotImplementedError

    @property
    def dead(self) -> tuple[int, ...]:
        """Of each team now, as magent2 counts."""
        return tuple(FIGHTERS - self.world.env.get_num(team) for team in self.world.handles)


def one_game(first: str, second: str, seed: int) -> tuple[RecordingFactory, GameResult]:
    factory = RecordingFactory()
    (game,) = play_match(factory, [PLAYERS[first], PLAYERS[second]], 1, seed).games
    return factory, game


def mean_returns(factory: RecordingFactory) -> list[float]:
    """Of each team, in rewards."""
    return list(np.sum([entry.reward for entry in factory.entries], axis=0).reshape(2, FIGHTERS).mean(axis=1))


@pytest.mark.parametrize("pair", [("nearest", "twin"), ("random", "nearest"), ("nearest", "still")])
@pytest.mark.parametrize("seed", range(4))
def test_the_team_with_more_dead_has_lost(pair: tuple[str, str], seed: int) -> None:
    factory, game = one_game(*pair, seed)
    assert max(factory.dead) > 0
    assert game.scores == pytest.approx([-dead / FIGHTERS for dead in factory.dead])
    expected = None if factory.dead[0] == factory.dead[1] else int(factory.dead[0] > factory.dead[1])
    assert winner(game) == expected
    for before, entry in zip([None, *factory.entries], factory.entries, strict=False):
        was_out = np.zeros(2 * FIGHTERS, np.bool_) if before is None else before.terminated
        dies = entry.score == -1
        assert not entry.score[~dies].any()
        assert not (dies & was_out).any(), "nobody dies twice"
        assert entry.terminated[dies].all()


def test_who_never_moves_does_not_beat_random_play() -> None:
    games = [one_game("still", "random", seed) for seed in range(4)]
    for factory, _ in games:
        still, random = mean_returns(factory)
        assert still > random, "blows into the air cost something, so the rewards say otherwise"
    assert all(winner(game) in (None, 1) for _, game in games)


@pytest.mark.parametrize("pair", [("nearest", "twin"), ("still", "random"), ("random", "nearest")])
def test_training_games_and_matches_agree(pair: tuple[str, str]) -> None:
    factory, game = one_game(*pair, seed=5)
    seating = Seating(factory.spec, 2 * FIGHTERS, None, (1,))
    seating.begin()
    for entry in factory.entries:
        seating.receive(entry)
    (told,) = seating.finished_games
    assert (told.scores, told.length) == (game.scores, game.length)
