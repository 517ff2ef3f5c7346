"""The shipped games: against the libraries they come from, and their pictures."""

import importlib.util

import numpy as np
import pytest
from game_players import HEURISTICS, Players, make

from machina.config import EnvConfig
from machina.envs.builders import describe, parse_environment, register_environment
from machina.envs.config import GameConfig
from machina.envs.games.battle import ATTACKS, MAP_SIZE, MOVES
from machina.envs.games.connect_four import LINES, draw_board
from machina.envs.games.pong_duel import MAX_NOOPS
from machina.envs.games.table import GAMES
from machina.errors import UserError
from machina.types import ACTION_MASK, StepResult


@pytest.mark.parametrize("name", list(GAMES))
def test_random_legal_play_keeps_the_contract(name: str) -> None:
    env = make(name, 2)
    spec, slots = env.spec, len(env.spec.seats) * 2
    assert describe(name) is GameConfig
    assert env.task_ids.tolist() == [spec.task_of(slot) for slot in range(slots)]
    players = Players(env, ["random", "random"])
    entry, ended, games_over = env.reset(list(range(slots))), np.ones(slots, np.bool_), 0
    for _ in range(60 if name == "pong_duel" else 400):
        for key, part in spec.observation.items():
            assert entry.observation[key].shape == (slots, *part.shape)
            assert entry.observation[key].dtype == np.dtype(part.dtype)
        assert name == "battle" or np.array_equal(entry.score, entry.reward)
        if games_over:  # only then has anybody been reset
            assert not entry.reward[ended].any()
        over = (entry.terminated | entry.truncated).reshape(2, -1).all(axis=1)
        games_over += int(over.sum())
        if name == "connect_four":
            assert not entry.reward.reshape(2, 2).sum(axis=1).any(), "zero-sum"
            assert np.array_equal(entry.on_turn.reshape(2, 2).sum(axis=1), ~over)
            assert np.array_equal(entry.enemy_reward, -entry.team_reward)
        else:
            assert entry.on_turn.all()
        for slot, seat in enumerate(spec.seats * 2):
            of_game = slice(slot // len(spec.seats) * len(spec.seats), (slot // len(spec.seats) + 1) * len(spec.seats))
            own = np.array([other.team == seat.team for other in spec.seats])
            assert np.isclose(entry.team_reward[slot], entry.reward[of_game][own].mean(), atol=1e-4)
            assert np.isclose(entry.enemy_reward[slot], entry.reward[of_game][~own].mean(), atol=1e-4)
        ended = entry.terminated | entry.truncated
        entry = env.step(players.act(entry))
    assert games_over > 1 or name == "pong_duel"
    env.close()


@pytest.mark.parametrize("name", list(GAMES))
def test_seeds_repeat_a_game(name: str) -> None:
    def play(seeds: tuple[int, int]) -> list[float]:
        env = make(name, 2)
        seats = len(env.spec.seats)
        players = Players(env, [HEURISTICS[name]])
        entry = env.reset([seeds[0]] * seats + [seeds[1]] * seats)
        sums = []
        for _ in range(20):
            sums += [float(array.sum()) for array in entry.observation.values()] + entry.reward.tolist()
            entry = env.step(players.act(entry))
        return sums

    first = play((3, 4))
    assert play((3, 4)) == first
    if name != "connect_four":  # nothing is random there
        assert play((3, 5)) != first


def same(one: StepResult, other: StepResult) -> bool:
    names = [name for name in StepResult._fields if name != "observation"]
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names) and all(
        np.array_equal(array, other.observation[key]) for key, array in one.observation.items()
    )


def test_connect_four_continues_from_its_state() -> None:
    env, again = make("connect_four", 3), make("connect_four", 3)
    assert env.get_state() is None, "there is no entry to continue from"
    players = Players(env, ["random"])
    entry = env.reset(range(6))
    for _ in range(31):
        entry = env.step(players.act(entry))
    state = env.get_state()
    assert state is not None
    saved = {key: array.copy() for key, array in state.items()}
    actions, entries = [players.act(entry)], [entry]
    for _ in range(80):
        entries.append(env.step(actions[-1]))
        actions.append(players.act(entries[-1]))
    assert sum(bool(each.terminated.any()) for each in entries) > 5, "games ended and began"

    again.reset(range(10, 16))
    assert same(again.set_state(state), entries[0])
    assert all(same(again.step(action), after) for action, after in zip(actions, entries[1:], strict=False))
    end, other_end = env.get_state(), again.get_state()
    assert end is not None
    assert other_end is not None
    assert all(np.array_equal(array, other_end[key]) for key, array in end.items())
    assert all(np.array_equal(array, saved[key]) for key, array in state.items()), "what was saved stays as it was"


@pytest.mark.parametrize("name", [name for name in GAMES if name != "connect_four"])
def test_other_games_restart(name: str) -> None:
    env = make(name)
    env.reset(range(len(env.spec.seats)))
    assert env.get_state() is None
    with pytest.raises(TypeError, match=f"'{name}' saves no state"):
        env.set_state({})
    env.close()


def test_connect_four_equals_pettingzoo_move_for_move() -> None:
    mine, native = make("connect_four", 8), make("pettingzoo:classic/connect_four-v3", 8)
    players = Players(mine, ["random", "one_ply"])
    seeds = list(range(16))
    one, other = mine.reset(seeds), native.reset(seeds)
    draws = wins = 0
    for _ in range(300):
        assert np.array_equal(one.observation["observation"], other.observation["observation"])
        for field in ("reward", "terminated", "truncated", "on_turn"):
            assert np.array_equal(getattr(one, field), getattr(other, field)), field
        waits = ~one.on_turn
        assert np.array_equal(
            one.observation[ACTION_MASK] | waits[:, None], other.observation[ACTION_MASK] | waits[:, None]
        )
        wins += int((one.reward > 0).sum())
        draws += int((one.terminated.reshape(8, 2).all(axis=1) & ~one.reward.reshape(8, 2).any(axis=1)).sum())
        actions = players.act(one)
        one, other = mine.step(actions), native.step(actions)
    assert wins > 100
    # a full board without four in a row, column by column in an order that gives none
    mine, native = make("connect_four"), make("pettingzoo:classic/connect_four-v3")
    one, other = mine.reset([1, 2]), native.reset([1, 2])
    for column in (
        0,
        1,
        0,
        1,
        1,
        0,
        1,
        0,
        0,
        1,
        0,
        1,
        2,
        3,
        2,
        3,
        3,
        2,
        3,
        2,
        2,
        3,
        2,
        3,
        4,
        5,
        4,
        5,
        5,
        4,
        5,
        4,
        4,
        5,
        4,
        5,
    ):
        one, other = mine.step(np.array([column] * 2)), native.step(np.array([column] * 2))
        assert not one.terminated.any()
    for _ in range(6):
        one, other = mine.step(np.array([6, 6])), native.step(np.array([6, 6]))
    assert one.terminated.all()
    assert other.terminated.all()
    assert one.reward.tolist() == other.reward.tolist() == [0, 0]


def test_connect_four_refuses_a_full_column() -> None:
    env = make("connect_four")
    env.reset([1, 2])
    for _ in range(6):
        env.step(np.array([3, 3]))
    with pytest.raises(ValueError, match="player_0 in game 0 is not allowed"):
        env.step(np.array([3, 0]))


def test_connect_four_lines_and_picture() -> None:
    assert len(LINES) == len({tuple(sorted(line)) for line in LINES.tolist()}) == 24 + 21 + 12 + 12
    pieces = np.zeros((2, 42), np.bool_)
    pieces[0, 35], pieces[1, 41] = True, True  # the corners at the bottom
    picture = draw_board(pieces)
    centers = picture[24::48, 24::48].astype(int)
    assert centers.shape == (6, 7, 3)
    assert centers[5, 0].tolist() != centers[5, 6].tolist() != centers[0, 0].tolist()
    assert (centers[:5] == centers[0, 0]).all()


def test_simple_tag_equals_mpe2() -> None:
    from mpe2 import simple_tag_v3

    native = simple_tag_v3.parallel_env(max_cycles=25)
    env = make("simple_tag", 6)
    entry = env.reset([seed for seed in range(6) for _ in range(4)])
    players = Players(env, ["chase", "random"])
    games = []
    for _ in range(25):
        actions = players.act(entry)
        games.append((entry, actions, entry := env.step(actions)))
    caught = 0
    for game in range(6):
        observations, _ = native.reset(seed=game)
        for step, (before, actions, after) in enumerate(games):
            for slot, agent in enumerate(native.possible_agents):
                own = before.observation["self"][4 * game + slot]
                units = before.observation["units"][4 * game + slot]
                velocity = units[-1, 2:4] if agent != "agent_0" else []
                flat = np.concatenate([own, units[:, :2].reshape(-1), velocity])
                assert np.allclose(flat, observations[agent], atol=1e-4), (game, step, agent)
            chosen = dict(zip(native.possible_agents, actions[4 * game : 4 * game + 4].tolist(), strict=True))
            observations, rewards, terminations, truncations, _ = native.step(chosen)
            mine = slice(4 * game, 4 * game + 4)
            assert np.allclose(after.reward[mine], list(rewards.values()), atol=1e-3)
            assert after.terminated[mine].tolist() == list(terminations.values())
            assert after.truncated[mine].tolist() == list(truncations.values())
            caught += int(after.reward[4 * game] > 0)
    assert caught > 10
    kinds = entry.observation["units"][..., 4:].argmax(axis=-1)[:4]
    assert kinds.tolist() == [[2, 2, 0, 0, 1]] * 3 + [[2, 2, 0, 0, 0]]


def test_battle_equals_magent2() -> None:
    from magent2.environments import battle_v4

    env = make("battle", 2, max_steps=60)
    players = Players(env, ["nearest", "random"], seed=3)
    entry = env.reset([11] * 12 + [12] * 12)
    native = battle_v4.parallel_env(map_size=MAP_SIZE, max_cycles=60)
    agents = native.possible_agents
    assert tuple(agents) == tuple(seat.agent for seat in env.spec.seats)
    observations, _ = native.reset(seed=12)
    deaths = 0
    for step in range(60):
        seen = entry.observation["observation"][12:]
        for slot, agent in enumerate(agents):
            assert np.array_equal(seen[slot], observations.get(agent, np.zeros_like(seen[slot])))
        # In a game's first step PettingZoo's front of magent2 0.3.4 gives blue the actions of red.
        actions = players.act(entry) if step else np.full(24, MOVES.index((1, 0)))
        alive = list(native.agents)
        observations, rewards, terminations, truncations, _ = native.step(
            {agent: int(actions[12 + agents.index(agent)]) for agent in alive}
        )
        entry = env.step(actions)
        for slot, agent in enumerate(agents):
            assert entry.reward[12 + slot] == np.float32(rewards.get(agent, 0))
            assert entry.terminated[12 + slot] == terminations.get(agent, True)
            if agent in alive and not terminations[agent]:
                assert entry.truncated[12 + slot] == truncations[agent]
        deaths += sum(terminations.values())
        if not native.agents:
            break
    assert deaths >= 6
    assert (entry.terminated | entry.truncated)[12:].all()
    entry = env.step(players.act(entry))
    assert not (entry.terminated | entry.truncated)[12:].any()
    assert entry.observation["observation"][12:].any(axis=(1, 2, 3)).all(), "everybody is back"


def test_battle_moves_and_attacks() -> None:
    """The tables of actions, by their effect in magent2's own world."""
    from magent2.environments import battle_v4

    env = battle_v4.parallel_env(map_size=MAP_SIZE)
    env.reset(seed=1)
    world, (red, blue) = env.env, env.handles

    def placed(friend: tuple[int, int], enemy: tuple[int, int], action: int) -> None:
        world.reset()
        world.add_agents(red, method="custom", pos=[[*friend, 0]])
        world.add_agents(blue, method="custom", pos=[[*enemy, 0]])
        world.set_action(red, np.array([action], np.int32))
        world.set_action(blue, np.array([MOVES.index((0, 0))], np.int32))
        world.step()

    for action, (right, down) in enumerate(MOVES):
        placed((6, 6), (12, 12), action)
        assert world.get_pos(red)[0].tolist() == [6 + right, 6 + down]
    for action, (right, down) in enumerate(ATTACKS):
        placed((6, 6), (6 + right, 6 + down), len(MOVES) + action)
        assert world.get_reward(red)[0] > 0


def test_pong_duel_equals_pettingzoo() -> None:
    import ale_py
    from pettingzoo.atari.pong.pong import parallel_env

    env = make("pong_duel")
    players = Players(env, ["follow", "random"])
    entry = env.reset([5, 0])
    roms = importlib.util.find_spec(ale_py.__name__)
    assert roms is not None
    assert roms.submodule_search_locations is not None
    native = parallel_env(
        auto_rom_install_path=f"{roms.submodule_search_locations[0]}/roms", obs_type="grayscale_image"
    )
    observations, _ = native.reset(seed=1)
    for _ in range(int(np.random.default_rng(5).integers(MAX_NOOPS + 1))):
        observations, *_ = native.step({"first_0": 0, "second_0": 0})
    points = np.zeros(2)
    assert not entry.observation["observation"][:, :-1].any(), "nothing came before"
    for _ in range(150):
        stack = entry.observation["observation"]
        field = observations["first_0"][34:194, :, 0].reshape(80, 2, 80, 2).max(axis=(1, 3))
        assert np.array_equal(stack[0, -1], np.pad(field, 2))
        assert np.array_equal(stack[1], stack[0, :, :, ::-1]), "each sees itself on the right"
        actions = players.act(entry)
        entry = env.step(actions)
        assert np.array_equal(entry.observation["observation"][:, :-1], stack[:, 1:])
        reward = np.zeros(2)
        for _ in range(4):
            observations, rewards, *_ = native.step({"first_0": int(actions[0]), "second_0": int(actions[1])})
            reward += list(rewards.values())
        assert entry.reward.tolist() == reward.tolist()
        points += reward
    assert points[0] > 0
    assert (entry.observation["observation"][:, -1, :, 72:74] > 100).any(axis=(1, 2)).all(), "own paddles"


@pytest.mark.parametrize("name", list(GAMES))
def test_pictures(name: str) -> None:
    env = parse_environment(name, GameConfig()).make_for_video(0)
    players = Players(env, [HEURISTICS[name], "random"])
    entry = env.reset(list(range(len(env.task_ids))))
    pictures = []
    for _ in range(12):
        entry = env.step(players.act(entry))
        pictures.append(env.render().copy())
    shape = pictures[0].shape
    assert shape[0] >= 200
    assert shape[1] >= 160
    assert shape[2] == 3
    assert all(picture.shape == shape and picture.dtype == np.uint8 for picture in pictures)
    assert (pictures[0] != pictures[-1]).any()
    env.close()


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="unknown environment 'conect_four'; did you mean 'connect_four'"):
        parse_environment("conect_four", GameConfig())
    with pytest.raises(UserError, match="'battle' takes GameConfig, got EnvConfig"):
        parse_environment("battle", EnvConfig())
    with pytest.raises(UserError, match="teams=agents: the teams of battle are fixed"):
        parse_environment("battle", GameConfig(teams="agents"))
    with pytest.raises(UserError, match="no wrapper fits"):
        parse_environment("battle", GameConfig(), wrapper="user_tasks:halved")
    with pytest.raises(UserError, match="'pong_duel' is taken"):
        register_environment("pong_duel", lambda num_slots: num_slots)  # type: ignore[arg-type, return-value]
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "magent2" else find_spec(name))
    with pytest.raises(UserError, match=r"'battle' needs magent2: pip install 'machina-trainer\[league\]'"):
        parse_environment("battle", GameConfig())
    parse_environment("connect_four", GameConfig())
