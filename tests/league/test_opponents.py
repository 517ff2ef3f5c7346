import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from race_game import StampingPolicy, in_memory, parameters_of, race_spec, stamping_policy, view_of
from torch import Tensor

from machina.errors import UserError
from machina.interfaces import Drawn
from machina.league.opponents import PoolOpponents
from machina.types import ActorInput, names_as_array, names_of

SPEC = race_spec()
SOMEBODY = 0.0  # the first uniform number of a draw that is against the pool


class Memory:
    """Real policies and parameters, with a record of what was made and loaded."""

    def __init__(self) -> None:
        self.policies: list[StampingPolicy] = []
        self.fetched: list[int] = []

    def make_policy(self) -> StampingPolicy:
        self.policies.append(stamping_policy(99))
        return self.policies[-1]

    def fetch(self, number: Any) -> Tensor:
        self.fetched.append(number)
        return parameters_of(number)


def opponents_of(capacity: int, *probabilities: float, pool_share: float = 1.0) -> tuple[PoolOpponents, Memory]:
    memory = Memory()
    opponents = PoolOpponents(memory.make_policy, capacity, memory.fetch)
    opponents.load(view_of(probabilities, pool_share))
    return opponents, memory


def stamp(opponents: PoolOpponents, name: str) -> float:
    """The stamp with which ``name`` answers: that of its parameters."""
    answer = opponents.act(
        name,
        ActorInput(
            {"observation": np.zeros((1, 3), np.float32)},
            np.zeros(1, np.float32),
            SPEC.action.none(1),
            np.ones(1, np.bool_),
            np.zeros(1, np.int64),
            (np.zeros((1, 1), np.float32),),
            np.full(1, 0.5, np.float32),
            np.arange(1),
        ),
    )
    return float(answer.core_state[0][0, 0])


def uniform_for(name: str, probabilities: tuple[float, ...]) -> float:
    """The second uniform number that draws ``name`` when a place is free."""
    index = int(name[1:]) - 1
    return sum(probabilities[:index]) + probabilities[index] / 2


def test_opponents_come_as_often_as_the_pool_says() -> None:
    opponents, _ = opponents_of(4, 0.5, 0.125, 0.375, pool_share=0.25)
    counts: Counter[str | None] = Counter()
    grid = (np.arange(64) + 0.5) / 64
    for uniforms in itertools.product(grid, grid):
        drawn = opponents.draw(uniforms)
        counts[drawn and drawn.name] += 1
        if drawn:
            assert drawn.probability == {"u1": 0.5, "u2": 0.125, "u3": 0.375}[drawn.name]
            opponents.release(drawn.name)
    assert counts == {None: 64 * 48, "u1": 64 * 8, "u2": 64 * 2, "u3": 64 * 6}


def test_the_extreme_uniform_numbers_draw_somebody() -> None:
    probabilities = (0.1,) * 10  # their sum, rounded, is less than 1
    opponents, _ = opponents_of(2, *probabilities)
    for uniform, name in ((0.0, "u1"), (math.nextafter(1.0, 0.0), "u10")):
        drawn = opponents.draw((math.nextafter(1.0, 0.0), uniform))
        assert drawn is not None
        assert drawn.name == name


@pytest.mark.parametrize("view", [None, view_of(()), view_of((1.0,), pool_share=0.0)])
def test_without_a_pool_the_present_self_plays(view: Any) -> None:
    opponents, memory = opponents_of(2)
    opponents.load(view)
    assert not opponents.available
    assert opponents.draw((SOMEBODY, 0.5)) is None
    assert memory.policies == []


def test_the_one_needed_least_recently_makes_room_and_its_policy_is_reused() -> None:
    p = (0.25,) * 4
    opponents, memory = opponents_of(2, *p)
    for name in ("u1", "u2", "u1", "u3", "u1", "u2"):
        drawn = opponents.draw((SOMEBODY, uniform_for(name, p)))
        assert drawn == Drawn(name, 0.25)
        assert stamp(opponents, name) == 1.0 + int(name[1:])
        opponents.release(name)
    assert memory.fetched == [1, 2, 3, 2]  # u1 was needed in between and stayed
    assert len(memory.policies) == 2
    assert in_memory(opponents) == ("u1", "u2")


def test_a_long_game_keeps_its_opponent_recent() -> None:
    p = (0.25,) * 4
    opponents, _ = opponents_of(2, *p)
    for name in ("u1", "u2"):
        opponents.draw((SOMEBODY, uniform_for(name, p)))
    opponents.release("u2")
    opponents.release("u1")
    opponents.draw((SOMEBODY, uniform_for("u3", p)))
    assert in_memory(opponents) == ("u1", "u3")


def test_who_was_idle_is_needed_only_since_its_next_game() -> None:
    p = (0.25,) * 4
    opponents, _ = opponents_of(2, *p)
    for name in ("u1", "u2"):
        opponents.draw((SOMEBODY, uniform_for(name, p)))
        opponents.release(name)
    for name in ("u2", "u1"):
        opponents.draw((SOMEBODY, uniform_for(name, p)))
    assert opponents.draw((SOMEBODY, 0.5)) == Drawn("u1", 1.0)  # u2 is needed for longer


def test_memory_is_bounded_and_running_games_keep_their_opponents() -> None:
    rng = np.random.default_rng(1)
    opponents, memory = opponents_of(3, *np.full(20, 0.05))
    running: list[Drawn] = []
    for _ in range(3000):
        if running and (len(running) == 12 or rng.random() < 0.5):
            opponents.release(running.pop(rng.integers(len(running))).name)
        elif drawn := opponents.draw(rng.random(2).tolist()):
            running.append(drawn)
        assert len(in_memory(opponents)) <= 3
        for name in {drawn.name for drawn in running}:
            assert stamp(opponents, name) == 1.0 + int(name[1:])
    assert len(memory.policies) == 3


def test_with_all_places_needed_a_draw_is_among_those_in_memory_but_the_one_longest_needed() -> None:
    p = (0.1, 0.2, 0.3, 0.4)
    opponents, memory = opponents_of(3, *p)
    for name in ("u3", "u1", "u2"):
        opponents.draw((SOMEBODY, uniform_for(name, p)))
    # u3 leaves; u1 and u2 share what is left as 0.1 to 0.2.
    assert opponents.draw((SOMEBODY, 0.33)) == Drawn("u1", 0.1 / (0.1 + 0.2))
    assert opponents.draw((SOMEBODY, 0.34)) == Drawn("u2", 0.2 / (0.1 + 0.2))
    opponents.release("u3")  # its place is free: everybody can come
    assert opponents.draw((SOMEBODY, 0.99)) == Drawn("u4", 0.4)
    assert in_memory(opponents) == ("u1", "u2", "u4")
    assert memory.fetched == [3, 1, 2, 4]


def test_a_pool_that_fits_into_memory_is_drawn_from_as_a_whole() -> None:
    p = (0.25, 0.75)
    opponents, _ = opponents_of(2, *p)
    opponents.draw((SOMEBODY, 0.1))
    opponents.draw((SOMEBODY, 0.9))
    assert opponents.draw((SOMEBODY, 0.2)) == Drawn("u1", 0.25)
    assert opponents.draw((SOMEBODY, 0.3)) == Drawn("u2", 0.75)


def test_everybody_comes_in_turn_although_all_places_are_always_needed() -> None:
    rng = np.random.default_rng(2)
    opponents, _ = opponents_of(3, *np.full(10, 0.1))
    met: Counter[str] = Counter()
    running: list[tuple[int, str]] = []
    for step in range(20_000):
        for ends, name in [game for game in running if game[0] == step]:
            opponents.release(name)
            running.remove((ends, name))
        while len(running) < 24:
            drawn = opponents.draw(rng.random(2).tolist())
            assert drawn is not None
            met[drawn.name] += 1
            running.append((step + int(rng.integers(5, 30)), drawn.name))
    assert len(met) == 10
    assert min(met.values()) > 0.05 * met.total()


def test_with_one_place_the_present_self_plays_until_it_is_free() -> None:
    opponents, memory = opponents_of(1, 0.5, 0.5)
    assert opponents.draw((SOMEBODY, 0.1)) == Drawn("u1", 0.5)
    assert opponents.draw((SOMEBODY, 0.1)) is None
    assert opponents.draw((SOMEBODY, 0.9)) is None
    opponents.release("u1")
    assert opponents.draw((SOMEBODY, 0.9)) == Drawn("u2", 0.5)
    assert len(memory.policies) == 1


def test_an_opponent_that_left_the_pool_plays_its_game_to_the_end_and_no_other() -> None:
    opponents, _ = opponents_of(2, 1.0)
    opponents.draw((SOMEBODY, 0.5))
    other = view_of((0.0, 0.5, 0.5))
    opponents.load(other._replace(names=other.names[1:], probabilities=(0.5, 0.5), parameters=other.parameters[1:]))
    assert opponents.draw((SOMEBODY, 0.1)) == Drawn("u2", 0.5)
    assert stamp(opponents, "u1") == 2.0
    # Both places are needed, u1 is in no view, u3 waits for a place.
    assert opponents.draw((SOMEBODY, 0.9)) == Drawn("u2", 1.0)
    opponents.release("u1")
    assert opponents.draw((SOMEBODY, 0.9)) == Drawn("u3", 0.5)
    assert in_memory(opponents) == ("u2", "u3")


def test_a_failed_fetch_loses_nobody() -> None:
    opponents, memory = opponents_of(1, 0.5, 0.5)
    opponents.draw((SOMEBODY, 0.1))
    opponents.release("u1")

    def broken(number: Any) -> Tensor:
        raise OSError(number)

    fetch, opponents._fetch = opponents._fetch, broken
    with pytest.raises(OSError, match="2"):
        opponents.draw((SOMEBODY, 0.9))
    opponents._fetch = fetch
    assert in_memory(opponents) == ("u1",)
    assert opponents.draw((SOMEBODY, 0.1)) == Drawn("u1", 0.5)
    assert memory.fetched == [1]


def test_saved_games_hold_their_opponents_again_in_the_same_order() -> None:
    p = (0.25,) * 4
    before, _ = opponents_of(3, *p)
    for name in ("u3", "u4", "u2"):
        before.draw((SOMEBODY, uniform_for(name, p)))
    after, memory = opponents_of(3, *p)
    after.load_state(before.state())
    for name in ("u2", "u3", "u4"):  # in the order of the games
        after.hold(name)
    assert in_memory(after) == in_memory(before) == ("u3", "u4", "u2")
    for uniform in (0.1, 0.4, 0.6, 0.9):
        assert after.draw((SOMEBODY, uniform)) == before.draw((SOMEBODY, uniform))
    assert memory.fetched == [3, 4, 2]


def test_saved_games_that_can_not_continue_are_refused() -> None:
    opponents, _ = opponents_of(1, 0.5, 0.5)
    with pytest.raises(UserError, match="'u7' plays a saved game but is not in the pool"):
        opponents.hold("u7")
    opponents.hold("u1")
    with pytest.raises(UserError, match="opponents_in_memory=1: the saved games have more"):
        opponents.hold("u2")


@pytest.mark.parametrize("names", [[], [""], ["", "u1", ""], ["über", "u2"]])
def test_names_survive_as_arrays(names: list[str]) -> None:
    assert names_of(names_as_array(names)) == names
