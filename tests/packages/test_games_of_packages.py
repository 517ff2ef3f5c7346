"""Games of PettingZoo whose physics are packages of their own (pymunk, Box2D)."""

from __future__ import annotations

import numpy as np
import pytest

from machina.envs.builders import parse_environment
from machina.envs.config import GameConfig
from machina.envs.games.multi_agent import MultiAgentSlots
from machina.envs.games.pettingzoo_game import AecGames, ParallelGames
from machina.envs.games.pettingzoo_specs import read_spec
from machina.types import OBSERVATION

pytestmark = pytest.mark.packages


def test_pistonball_is_trained_on_the_pictures_that_films_show() -> None:
    factory = parse_environment("pettingzoo:butterfly/pistonball-v6", GameConfig())
    num_slots = len(factory.spec.seats)
    env, film = factory.make([0] * num_slots), factory.make_for_video(0)
    entry, filmed = env.reset([3] * num_slots), film.reset([3] * num_slots)
    first, generator, changed = entry.observation[OBSERVATION], np.random.default_rng(0), False
    for _ in range(10):
        assert np.array_equal(entry.observation[OBSERVATION], filmed.observation[OBSERVATION])
        actions = generator.uniform(-1, 1, (num_slots, 1)).astype(np.float32)
        entry, filmed = env.step(actions), film.step(actions)
        changed |= bool((entry.observation[OBSERVATION] != first).any())
    assert changed
    env.close()
    film.close()


@pytest.mark.parametrize("form", ["parallel_env", "env"])
def test_the_limit_of_multiwalker_is_no_termination(form: str) -> None:
    from pettingzoo.sisl import multiwalker_v9

    spec = read_spec(f"pettingzoo.sisl.multiwalker_v9:{form}", "names", {})
    for limit, terminated in ((40, False), (500, True)):
        native = getattr(multiwalker_v9, form)(max_cycles=limit)
        games = ParallelGames([native], spec) if form == "parallel_env" else AecGames([native], spec)
        env, generator = MultiAgentSlots(games, spec, 1), np.random.default_rng(0)
        entry = env.reset([1] * 3)
        turns = 0
        while not (entry.terminated | entry.truncated).all():
            # A walker that does not move stands for 40 steps; one that moves at random falls.
            actions = generator.uniform(-1, 1, (3, 4)) if terminated else np.zeros((3, 4))
            entry = env.step(actions.astype(np.float32))
            turns += 1
        assert entry.terminated.tolist() == [terminated] * 3
        assert entry.truncated.tolist() == [not terminated] * 3
        assert terminated or turns == limit * (1 if form == "parallel_env" else 3)
        env.close()
