"""What PettingZoo environments do otherwise than PettingZoo says, on the real ones."""

from typing import Any

import numpy as np
import pettingzoo
import pytest
from pettingzoo.butterfly import knights_archers_zombies_v11

from machina.envs.builders import parse_environment
from machina.envs.config import GameConfig
from machina.envs.games.multi_agent import MultiAgentSlots
from machina.envs.games.pettingzoo_game import AecGames, ParallelGames
from machina.envs.games.pettingzoo_specs import build, read_spec
from machina.envs.games.scripted import random_player
from machina.types import OBSERVATION, Array, StepResult

MAPS = ("battle_v4", "battlefield_v5", "adversarial_pursuit_v4", "combined_arms_v6", "gather_v5", "tiger_deer_v4")


def test_pictures_that_agents_see_are_drawn_in_training() -> None:
    factory = parse_environment("pettingzoo:butterfly/cooperative_pong-v6", GameConfig())
    env, film = factory.make([0, 0]), factory.make_for_video(0)
    assert env.spec.tasks == ("paddle",)
    entry, filmed = env.reset([3, 0]), film.reset([3, 0])
    first, generator, changed = entry.observation[OBSERVATION], np.random.default_rng(0), False
    for _ in range(10):
        assert np.array_equal(entry.observation[OBSERVATION], filmed.observation[OBSERVATION])
        actions = generator.integers(0, 3, 2)
        entry, filmed = env.step(actions), film.step(actions)
        changed |= bool((entry.observation[OBSERVATION] != first).any())
    assert changed
    assert first.max() > 0
    env.close()
    film.close()


def test_rock_paper_scissors_is_seen_one_hot() -> None:
    factory = parse_environment("pettingzoo:classic/rps-v2", GameConfig())
    env = factory.make([0, 0])
    nothing, rock, paper = np.eye(4, dtype=np.bool_)[[3, 0, 1]].tolist()
    assert env.reset([1, 2]).observation[OBSERVATION].tolist() == [nothing, nothing]
    entry = env.step(np.array([0, 1]))
    assert entry.observation[OBSERVATION].tolist() == [paper, rock], "what the other one played"
    assert entry.reward.tolist() == [-1, 1]
    env.close()


@pytest.mark.parametrize("name", MAPS)
def test_every_team_plays_its_own_actions_from_the_first_step_on(name: str) -> None:
    spec = read_spec(f"magent2.environments.{name}", "names", {})
    env, twin = (build(spec.name) for _ in range(2))
    games = ParallelGames([env], spec)
    actions = np.random.default_rng(0).integers(0, [env.action_space(agent).n for agent in env.possible_agents])
    games.play(actions, {0: 1})
    for seed in (2, 3):  # at the end of a game teams have other sizes than at its beginning
        games.play(actions, {0: seed})
        games.play(actions, {})
        twin.reset(seed=seed)
        world, rest = twin.unwrapped.env, actions.astype(np.int32)
        for team in twin.unwrapped.handles:
            size = world.get_num(team)
            world.set_action(team, rest[:size])
            rest = rest[size:]
        assert not len(rest)
        world.step()
        for team, same in zip(env.unwrapped.handles, twin.unwrapped.handles, strict=True):
            assert np.array_equal(env.unwrapped.env.get_pos(team), world.get_pos(same))
    games.close()
    twin.close()


class Kills:
    """Notes the zombies that each agent fells, cycle by cycle."""

    def __init__(self, game: Any) -> None:
        self._game = game
        self._apply_weapons = game.apply_weapons
        self.felled: list[list[int]] = []
        game.apply_weapons = self._count

    def _count(self) -> None:
        before = {name: player.score for name, player in self._game.agent_map.items()}
        self._apply_weapons()
        self.felled.append([player.score - before[name] for name, player in self._game.agent_map.items()])


def play_kaz(form: str, seed: int, limit: int) -> tuple[list[Array], list[Array], bool]:
    """Rewards of every step, points of every cycle, and whether the limit cut the game."""
    spec = read_spec(f"pettingzoo.butterfly.knights_archers_zombies_v11:{form}", "names", {})
    native = getattr(knights_archers_zombies_v11, form)(max_cycles=limit)
    games = ParallelGames([native], spec) if form == "parallel_env" else AecGames([native], spec)
    env, generator = MultiAgentSlots(games, spec, 1), np.random.default_rng(seed)
    entry = env.reset([seed] * 4)
    kills, rewards = Kills(native.unwrapped), []
    action = np.zeros(4, np.int64)
    while not (entry.terminated | entry.truncated).all():
        if form == "parallel_env" or entry.on_turn[0]:
            action = generator.choice([0, 1, 2, 3, 4, 4, 4], 4)
        entry = env.step(action)
        rewards.append(entry.reward)
    env.close()
    return rewards, [np.array(points) for points in kills.felled], bool(entry.truncated.any())


def test_knights_and_archers_are_paid_when_the_zombie_falls() -> None:
    total, cut = 0.0, 0
    for seed in range(12):
        rewards, felled, truncated = play_kaz("parallel_env", seed, limit=120)
        assert np.array_equal(rewards, felled), "in the same step"
        total, cut = total + np.sum(rewards), cut + truncated
    assert total > 10
    assert cut > 2


@pytest.mark.parametrize("form", ["parallel_env", "env"])
def test_a_zombie_that_falls_in_the_last_cycle_is_paid_for(form: str) -> None:
    games = {seed: play_kaz("parallel_env", seed, limit=120)[1] for seed in (3, 4, 5)}
    ends = [(seed, n) for seed, cycles in games.items() for n, points in enumerate(cycles) if points[1:].any()]
    seed, last = ends[-1]  # felled by another one than the first agent
    rewards, same, truncated = play_kaz(form, seed, limit=last + 1)
    assert truncated
    assert len(same) == last + 1
    assert same[-1][1:].any()
    assert np.array_equal(np.sum(rewards, axis=0), np.sum(same, axis=0))


def test_a_seed_of_knights_and_archers_is_a_whole_game() -> None:
    factory = parse_environment("pettingzoo:butterfly/knights_archers_zombies-v11", GameConfig())
    env = factory.make([seat.role for seat in factory.spec.seats])

    def seen() -> Array:
        entries = [env.reset([5] * 4), *(env.step(np.full(4, 5)) for _ in range(50))]
        return np.stack([entry.observation[OBSERVATION] for entry in entries])

    assert np.array_equal(seen(), seen()), "the clock of the zombies restarts"


ATARI = sorted(name for name in pettingzoo.parallel_registry if name.startswith("atari/"))
QUICK = ("atari/boxing-v2", "atari/tennis-v3", "atari/wizard_of_wor-v3")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in ATARI]
)
def test_seeds_decide_atari_games_for_several(name: str) -> None:
    factory = parse_environment(f"pettingzoo:{name}", GameConfig())
    env = factory.make([seat.role for seat in factory.spec.seats])
    player = random_player(factory.spec.action)

    def frames(seed: int) -> bytes:
        generator, num_slots = np.random.default_rng(0), len(factory.spec.seats)
        entries: list[StepResult] = [env.reset([seed] * num_slots)]
        for _ in range(100):
            uniforms = generator.random(num_slots, np.float32)
            entries.append(env.step(player(entries[-1].observation, env.task_ids, uniforms)))
        return b"".join(entry.observation[OBSERVATION][0].tobytes() for entry in entries)

    games = [frames(seed) for seed in (1, 4, 7)]  # in some only a few beginnings differ
    assert len(set(games)) > 1
    assert games[0] == frames(1)
    assert factory.spec.protocol["noop_frames"] == "0 to 30"
    env.close()


@pytest.mark.parametrize(("seed", "paid", "scored"), [(4, [5, 0], [1, 0]), (8, [0, 1], [0, 1])])
def test_flags_decide_flag_capture_not_what_they_pay(seed: int, paid: list[float], scored: list[float]) -> None:
    spec = read_spec("pettingzoo:atari/flag_capture-v2", "names", {})
    env = MultiAgentSlots(ParallelGames([build(spec.name)], spec), spec, 1)
    env.reset([seed] * 2)
    generator, rewards, scores = np.random.default_rng(seed), np.zeros(2), np.zeros(2)
    for step in range(180):
        if step % 8 == 0:
            actions = generator.integers(0, spec.action.choices[0], 2)
        entry = env.step(actions)
        rewards, scores = rewards + entry.reward, scores + entry.score
    env.close()
    assert rewards.tolist() == paid
    assert scores.tolist() == scored
