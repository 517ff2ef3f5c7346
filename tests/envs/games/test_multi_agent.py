"""Games for several agents as slots: tiny ones entry by entry, PettingZoo's own against PettingZoo's own loops."""

import pickle
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import user_games

from machina.envs.builders import parse_environment
from machina.envs.config import GameConfig
from machina.envs.games.multi_agent import Moment, MultiAgentSlots
from machina.envs.games.pettingzoo_game import AecGames, ParallelGames
from machina.envs.games.pettingzoo_specs import build, read_spec
from machina.envs.games.scripted import random_player
from machina.errors import EnvironmentFaultError, UserError
from machina.interfaces import EnvFactory, SlotEnv
from machina.types import ACTION_MASK, Array, StepResult

RELAY, PATROL = "user_games:env", "user_games:parallel_env"


def make(name: str, num_games: int = 1, **options: Any) -> SlotEnv:
    factory: EnvFactory = pickle.loads(pickle.dumps(parse_environment(name, GameConfig(**options))))
    return factory.make([seat.role for seat in factory.spec.seats] * num_games)


def row(entry: StepResult, key: str = "observation") -> list[Any]:
    """What arrived with an entry, as plain lists."""
    values = [entry.observation[key], entry.reward, entry.terminated, entry.truncated, entry.on_turn]
    return [np.round(value.astype(float), 6).tolist() for value in values]


T, F = True, False


def test_relay_entry_by_entry() -> None:
    env = make(RELAY)
    spec = env.spec
    assert spec.tasks == ("red", "blue")
    assert [(seat.agent, seat.role, seat.team) for seat in spec.seats] == [
        ("red_0", 0, 0),
        ("red_1", 0, 0),
        ("blue_0", 1, 1),
    ]
    assert spec.observation["observation"].dtype == "float32"
    assert spec.observation[ACTION_MASK].shape == (3,)
    entry = env.reset([7, 8, 9])
    assert row(entry) == [[[0], [0], [0.5]], [0, 0, 0], [F, F, F], [F, F, F], [T, F, F]]
    assert entry.observation[ACTION_MASK].tolist() == [[T, T, F], [T, T, F], [T, T, T]]
    # action, observations, rewards, terminated, truncated, on turn; actions of those who wait count for nothing
    script: list[tuple[list[int], list[Any], list[float], list[bool], list[bool], list[bool]]] = [
        ([1, 2, 2], [[1], [1], [1.5]], [0.1, 0, -1], [F, F, F], [F, F, F], [F, T, F]),
        ([2, 0, 2], [[2], [2], [2.5]], [0, 0, 0], [F, F, F], [F, F, F], [F, F, T]),
        ([2, 2, 2], [[3], [3], [3.5]], [0, 0, 0.2], [F, F, F], [F, F, F], [T, F, F]),
        ([0, 2, 2], [[4], [4], [4.5]], [0, 0, 0], [F, F, F], [F, F, F], [F, T, F]),
        # red_1 is out: its last observation and reward; from then on it repeats its end
        ([2, 1, 2], [[5], [5], [5.5]], [0, 0.1, -1], [F, T, F], [F, F, F], [F, F, T]),
        ([2, 2, 1], [[6], [0], [6.5]], [0, 0, 0.1], [F, T, F], [F, F, F], [T, F, F]),
        ([1, 2, 2], [[7], [0], [7.5]], [0.1, 0, -1], [F, T, F], [F, F, F], [F, F, T]),
        # the limit; red_0 gets its 5 off turn
        ([2, 2, 2], [[8], [0], [8.5]], [5, 0, 0.2], [F, T, F], [T, F, T], [F, F, F]),
        # the reset step
        ([2, 2, 2], [[0], [0], [0.5]], [0, 0, 0], [F, F, F], [F, F, F], [T, F, F]),
        ([1, 2, 2], [[1], [1], [1.5]], [0.1, 0, -1], [F, F, F], [F, F, F], [F, T, F]),
    ]
    for actions, *expected in script:
        entry = env.step(np.array(actions))
        assert row(entry) == expected
        red, blue = entry.reward[:2].mean(), entry.reward[2]
        assert np.allclose(entry.team_reward, [red, red, blue])
        assert np.allclose(entry.enemy_reward, [blue, blue, red])
        assert not entry.life_lost.any()
        assert not entry.observation[ACTION_MASK][entry.terminated & (entry.reward == 0)].any()


def test_patrol_entry_by_entry() -> None:
    env = make(PATROL, 2)
    assert env.spec.tasks == ("scout", "guard")
    assert env.task_ids.tolist() == [0, 1, 1, 0, 1, 1]
    assert env.spec.observation["observation"].shape == (3,)
    entry = env.reset([1, 0, 0, 2, 0, 0])
    start = [float(np.random.default_rng(seed).integers(1, 4)) for seed in (1, 2)]
    assert entry.observation["observation"][:3].tolist() == [[start[0], 0, 0], [start[0], 0, 1], [start[0], 0, 2]]
    assert entry.observation["observation"][3:, 0].tolist() == [start[1]] * 3
    assert entry.observation[ACTION_MASK].tolist() == [[T, T, F], [T, T, T], [T, T, T]] * 2
    script: list[tuple[list[int], list[float], list[bool], list[bool]]] = [
        ([1, 2, 0], [1, 2, 0], [F, F, F], [F, F, F]),
        ([0, 1, 2], [0, 1, 1], [F, F, T], [F, F, F]),
        ([1, 2, 2], [1, 2, 0], [F, F, T], [T, F, F]),
        ([1, 2, 2], [0, 2, 0], [F, T, T], [T, F, F]),
        ([1, 2, 2], [0, 0, 0], [F, F, F], [F, F, F]),
        ([1, 2, 0], [1, 2, 0], [F, F, F], [F, F, F]),
    ]
    for step, (actions, reward, terminated, truncated) in enumerate(script, 1):
        acting = ~(entry.terminated | entry.truncated)
        entry = env.step(np.array(actions * 2))
        assert entry.reward.tolist() == reward * 2
        assert entry.terminated.tolist() == terminated * 2
        assert entry.truncated.tolist() == truncated * 2
        assert entry.on_turn.all()
        seen = entry.observation["observation"]
        if step < 5:
            assert seen[:3, 1].tolist() == (acting[:3] * step).tolist(), "nothing is seen after one's end"
            assert seen[3:, 0].tolist() == (acting[3:] * start[1]).tolist()
        guards = (reward[1] + reward[2]) / 2
        assert entry.team_reward.tolist() == [reward[0], guards, guards] * 2
        assert entry.enemy_reward.tolist() == [guards, reward[0], reward[0]] * 2


def test_every_agent_may_be_a_team_of_its_own() -> None:
    env = make(PATROL, teams="agents")
    assert [seat.team for seat in env.spec.seats] == [0, 1, 2]
    env.reset([1, 2, 3])
    entry = env.step(np.array([1, 2, 0]))
    assert entry.team_reward.tolist() == [1, 2, 0]
    assert entry.enemy_reward.tolist() == [1, 0.5, 1.5]


def test_max_steps_truncate_those_who_still_play() -> None:
    env = make(PATROL, max_steps=2)
    env.reset([1, 2, 3])
    assert not env.step(np.array([1, 2, 0])).truncated.any()
    entry = env.step(np.array([1, 2, 0]))
    assert entry.terminated.tolist() == [F, F, T]
    assert entry.truncated.tolist() == [T, T, F]
    entry = env.step(np.array([1, 2, 0]))
    assert not (entry.terminated | entry.truncated).any()
    assert entry.reward.tolist() == [0, 0, 0]
    assert make(PATROL, max_steps=2).spec.protocol == {"max_steps": 2, "teams": "names"}


class Scored(ParallelGames):
    """Whose score is not the reward; also for agents that are out, and at a reset step."""

    score = 2.0

    def play(self, actions: Array, begins: Mapping[int, int]) -> Moment:
        moment = super().play(actions, begins)
        return moment._replace(score=np.full_like(moment.reward, self.score))


def test_a_game_may_say_what_decides_it() -> None:
    spec = read_spec(PATROL, "names", {})
    games = Scored([user_games.Patrol()], spec)
    scored, plain = MultiAgentSlots(games, spec, 1), make(PATROL)
    assert scored.reset([1, 2, 3]).score.tolist() == plain.reset([1, 2, 3]).score.tolist() == [0, 0, 0]
    for score in ([2, 2, 2], [2, 2, 2], [2, 2, 0], [0, 2, 0], [0, 0, 0], [2, 2, 2]):  # out: the guard, then the scout
        entry, same = (env.step(np.array([1, 2, 1])) for env in (scored, plain))
        assert entry.score.tolist() == score
        assert same.score.tolist() == same.reward.tolist() == entry.reward.tolist()
    games.score = np.nan
    with pytest.raises(EnvironmentFaultError, match="score of scout_0 in game 0 is not finite"):
        scored.step(np.array([1, 2, 1]))


def test_seeds_decide_every_game() -> None:
    def starts(seeds: list[int]) -> list[list[float]]:
        env = make(PATROL, 2)
        entries = [env.reset(seeds), *(env.step(np.zeros(6, np.int64)) for _ in range(60))]
        return [entry.observation["observation"][::3, 0].tolist() for entry in entries[::5]]

    first = starts([3, 1, 1, 4, 1, 1])
    assert starts([3, 2, 2, 4, 2, 2]) == first, "of a game's seeds only the first counts"
    assert starts([5, 1, 1, 4, 1, 1]) != first
    assert len({start for start, _ in first}) > 1, "games that follow have other seeds"


def test_earlier_entries_stay_as_they_were() -> None:
    env = make(PATROL)
    entry = env.reset([1, 2, 3])
    kept = pickle.dumps(entry)
    for _ in range(6):
        env.step(np.zeros(3, np.int64))
    assert pickle.dumps(entry) == kept


def test_actions_are_checked() -> None:
    env = make(PATROL)
    with pytest.raises(ValueError, match="reset comes before"):
        env.step(np.zeros(3, np.int64))
    env.reset([1, 2, 3])
    with pytest.raises(ValueError, match="scout_0 in game 0 is not allowed"):
        env.step(np.array([2, 2, 2]))
    with pytest.raises(ValueError, match="actions must be"):
        env.step(np.array([0, 3, 0]))
    with pytest.raises(ValueError, match="actions must be"):
        env.step(np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="3 slots need as many seeds"):
        env.reset([1])
    relay = make(RELAY)
    relay.reset([1, 2, 3])
    with pytest.raises(ValueError, match="red_0 in game 0 is not allowed"):
        relay.step(np.array([2, 0, 0]))
    relay.step(np.array([1, -1, 99]))  # those of who waits count for nothing


def test_whole_games_only() -> None:
    factory = parse_environment(PATROL, GameConfig())
    for task_ids in ([], [0, 1], [1, 1, 0], [0, 1, 1, 0]):
        with pytest.raises(ValueError, match="3 slots to a game"):
            factory.make(task_ids)


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("raises", r"'user_games:parallel_env \(game 0\)': step raised RuntimeError: the radio is silent"),
        ("nan", "observation of guard_0 in game 0 is not finite"),
        ("nan_reward", "reward of guard_0 in game 0 is not finite"),
        ("shape", r"observation of guard_0 has shape \(1,\), its space has \(3,\)"),
        ("mask", "the action_mask of guard_0 is in its infos; put it into the observation"),
        ("missing", r"the step gave no observation of guard_0"),
        ("joins", "guard_1 joined a game under way"),
    ],
)
def test_faults_of_a_parallel_environment(trouble: str, message: str) -> None:
    spec = read_spec(PATROL, "names", {})
    env = MultiAgentSlots(ParallelGames([user_games.Patrol(trouble)], spec), spec, 1)

    def play() -> None:
        env.reset([1, 2, 3])
        for _ in range(3):
            env.step(np.zeros(3, np.int64))

    with pytest.raises(EnvironmentFaultError, match=message) as fault:
        play()
    assert "\n" not in str(fault.value)
    if trouble == "raises":
        assert "user_games.py:" in str(fault.value), "where in the user's code"
        assert 'raise RuntimeError("the radio is silent' in fault.value.details


@pytest.mark.parametrize(
    ("trouble", "turns", "message"),
    [
        ("raises", 1, "step raised RuntimeError: the ball is lost"),
        ("helpless", 0, "no action is allowed to red_1"),
        ("joins", 1, "red_1 joined a game under way"),
    ],
)
def test_faults_of_a_turn_based_environment(trouble: str, turns: int, message: str) -> None:
    spec = read_spec(RELAY, "names", {})
    env = MultiAgentSlots(AecGames([user_games.Relay(trouble)], spec), spec, 1)
    env.reset([1, 2, 3])
    for _ in range(turns):
        env.step(np.zeros(3, np.int64))
    with pytest.raises(EnvironmentFaultError, match=message):
        env.step(np.zeros(3, np.int64))


def test_pictures() -> None:
    film = parse_environment(PATROL, GameConfig()).make_for_video(0)
    film.reset([1, 2, 3])
    film.step(np.zeros(3, np.int64))
    assert film.render().shape == (4, 6, 3)
    assert (film.render() == 1).all()
    blind = make(PATROL)
    blind.reset([1, 2, 3])
    with pytest.raises(UserError, match="renders no picture"):
        blind.render()
    film.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("user_games:axes", "agents see 'observation' in shapes"),
        (
            "user_games:words",
            r"'observation' is Text.* neither .* choices; give agents one of these, or a Dict or Tuple",
        ),
        ("user_games:kinds", "one policy can't act in both"),
        ("user_games:no_agents", "give it possible_agents"),
        ("user_games:not_pettingzoo", "must be a PettingZoo AECEnv or ParallelEnv, got dict"),
        ("user_games:needs_key", "can't be built: KeyError: 'LICENCE'"),
        ("user_games:paralel_env", "no function paralel_env; did you mean 'parallel_env'"),
    ],
)
def test_environments_that_cannot_be_trained_on(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        read_spec(name, "names", {})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:env", "module 'no_such_module' can't be imported"),
        ("mpe2.simple_sprad_v3", "module 'mpe2.simple_sprad_v3' can't be imported"),
        (
            "pettingzoo:classic/tictactoe",
            "PettingZoo knows no id 'classic/tictactoe'; did you mean 'classic/tictactoe-v3'",
        ),
        ("json.decoder", "has no function parallel_env or env"),
        ("pettingzoo.mpe.simple_spread_v3", "MPE has been moved"),
    ],
)
def test_wrong_names(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        parse_environment(name, GameConfig())
    assert "\n" not in str(refusal.value)


def test_wrappers_do_not_fit() -> None:
    with pytest.raises(UserError, match="no wrapper fits"):
        parse_environment(PATROL, GameConfig(), wrapper="user_tasks:halved")


TURN_BASED = [
    ("pettingzoo:classic/connect_four-v3", 7),
    ("pettingzoo:classic/tictactoe-v3", 5),
    ("mpe2.simple_adversary_v3:env", 3),  # a turn-based front of simultaneous moves: agents' spaces differ
    (RELAY, 9),
]


@pytest.mark.parametrize(("name", "seed"), TURN_BASED)
def test_turn_based_rewards_add_up_to_the_environments_own(name: str, seed: int) -> None:
    env, player = make(name), random_player(read_spec(name, "names", {}).action)
    generator = np.random.default_rng(seed)
    num_slots = len(env.spec.seats)
    entry = env.reset([seed] * num_slots)
    native = build(name)
    native.reset(seed=seed)
    expected: dict[str, float] = defaultdict(float)
    totals = np.zeros(num_slots)
    while not (ended := entry.terminated | entry.truncated).all():
        assert (entry.on_turn & ~ended).sum() == 1
        actions = player(entry.observation, env.task_ids, generator.random(num_slots, np.float32))
        for agent in native.agent_iter():
            observation, reward, terminated, truncated, _ = native.last()
            expected[agent] += reward
            if terminated or truncated:
                native.step(None)
                continue
            slot = int(np.argmax(entry.on_turn))
            assert agent == env.spec.seats[slot].agent
            seen = np.asarray(observation["observation"] if isinstance(observation, dict) else observation)
            mine = entry.observation["observation"][slot]
            assert np.allclose(mine[tuple(slice(0, size) for size in seen.shape)], seen)
            native.step(int(actions[slot]))
            break
        entry = env.step(actions)
        totals += entry.reward
    for agent in native.agent_iter():  # the last turns of the dead
        expected[agent] += native.last()[1]
        native.step(None)
    assert np.allclose(totals, [expected[seat.agent] for seat in env.spec.seats], atol=1e-4)
    assert any(expected.values())


def test_parallel_environment_equals_the_native_loop() -> None:
    name = "mpe2.simple_adversary_v3"
    env = make(name)
    assert env.spec.tasks == ("adversary", "agent")
    assert env.spec.observation["observation"].shape == (10,)
    native = build(name)
    observations, _ = native.reset(seed=11)
    entry = env.reset([11, 0, 0])
    generator = np.random.default_rng(1)
    for step in range(25):
        for slot, (agent, seen) in enumerate(observations.items()):
            assert np.array_equal(entry.observation["observation"][slot, : len(seen)], seen), agent
            assert not entry.observation["observation"][slot, len(seen) :].any()
        actions = generator.integers(0, 5, 3)
        entry = env.step(actions)
        observations, rewards, *_ = native.step(dict(zip(native.agents, actions.tolist(), strict=True)))
        assert np.allclose(entry.reward, list(rewards.values()), atol=1e-5)
        assert entry.truncated.tolist() == [step == 24] * 3


def test_roms_are_found_for_pettingzoo_atari() -> None:
    env = make("pettingzoo:atari/boxing-v2")
    assert env.spec.observation["observation"].shape == (210, 160, 3)
    assert env.spec.tasks == ("first", "second")
    env.reset([1, 2])
    assert env.step(np.array([1, 1])).observation["observation"].any()
