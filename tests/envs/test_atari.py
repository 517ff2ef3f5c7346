"""Atari on the real emulator: actions, episode ends, frame stacks, hangs."""

import threading
from collections.abc import Iterator

import ale_py
import numpy as np
import pytest
import torch

from machina.envs.atari import AtariTasks, action_table, make_game
from machina.envs.atari_games import ATARI57
from machina.envs.builders import parse_environment
from machina.envs.config import AtariConfig
from machina.envs.slots import GymnasiumSlots
from machina.errors import EnvironmentFaultError
from machina.interfaces import SlotEnv
from machina.nets.frames import stacked_frames
from machina.types import StepResult

FIRE = 1


def make(games: str, task_ids: list[int], **settings: float) -> SlotEnv:
    return parse_environment(games, AtariConfig.model_validate(settings)).make(task_ids)


def test_every_game_takes_every_action_and_survives_an_episode_end() -> None:
    env = make("atari57", list(range(57)), frame_cap=120, noop_max=0)
    entry = env.reset(range(57))
    lengths, first_lengths = np.zeros(57), np.zeros(57)
    for step in range(36):
        ended = entry.terminated | entry.truncated
        entry = env.step(np.full(57, step % 18))
        lengths = np.where(ended, 0, lengths + 1)
        first_lengths[(first_lengths == 0) & (entry.terminated | entry.truncated)] = step + 1
        assert not entry.reward[ended].any()
        stacks = entry.observation["observation"]
        assert not stacks[ended, :3].any()
        # 120 frames are 30 steps
        assert np.array_equal(entry.truncated & ~entry.terminated, (lengths == 30) & ~entry.terminated)
    env.close()
    missing = [game for game, length in zip(ATARI57, first_lengths, strict=True) if length == 0]
    assert not missing


def test_action_table() -> None:
    skiing = make_game("skiing", 1, AtariConfig(), 1, full=True).ale.get_action_set()
    table = action_table(skiing, full=True)
    assert len(table) == 18
    for number, index in enumerate(table):
        wanted = ale_py.Action(number).name
        assert skiing[index].name == (wanted.removesuffix("FIRE") or "NOOP")
    pong = make_game("pong", 1, AtariConfig(), 1, full=True).ale.get_action_set()
    assert action_table(pong, full=True).tolist() == list(range(18))
    assert action_table(pong[:6], full=False).tolist() == list(range(6))


def test_actions_out_of_range_never_reach_the_emulator() -> None:
    env = AtariTasks(["pong"], [0], AtariConfig(), 1, full=False)
    env.reset(seed=[0])
    for action in (-1, 6):
        with pytest.raises(ValueError, match="actions must be"):
            env.step(np.array([action]))
    assert env.waiting_for == ""
    env.step(np.array([5]))
    env.close()


def test_what_is_built_is_reported() -> None:
    told: list[int] = []
    parse_environment("pong,breakout", AtariConfig()).make([0, 1, 1, 1, 0], progress=told.append).close()
    assert told == [2, 3]


def test_answers_have_the_types_of_their_numbers() -> None:
    env = AtariTasks(["pong", "breakout"], [0, 1], AtariConfig(), 1, full=True)
    env.reset()
    frames, infos = env.reset(seed=[0, 1])
    assert [array.dtype.name for array in (frames, infos["lives"])] == ["uint8", "int64"]
    *arrays, infos = env.step(np.array([0, 1]))
    names = [array.dtype.name for array in (*arrays, infos["lives"])]
    assert names == ["uint8", "float32", "bool", "bool", "int64"]
    env.close()


def test_slots_depend_on_their_seed_only() -> None:
    one, other = make("pong,breakout", [0, 1, 0, 1]), make("pong,breakout", [1, 0, 0, 1])
    order = [1, 0, 2, 3]
    seeds, rng = np.array([3, 4, 5, 2**40 + 6]), np.random.default_rng(0)
    first, second = one.reset(list(seeds)), other.reset(list(seeds[order]))
    for _ in range(60):
        assert np.array_equal(first.observation["observation"][order], second.observation["observation"])
        assert np.array_equal(first.reward[order], second.reward)
        actions = rng.integers(0, 18, 4)
        first, second = one.step(actions), other.step(actions[order])
    one.close()
    other.close()


def test_stacks_are_those_rebuilt_from_the_newest_frames() -> None:
    env = make("breakout,pong", [0, 1, 1, 0], frame_cap=500)
    rng, length, ends = np.random.default_rng(1), 20, 0
    entries: list[StepResult] = [env.reset(range(4))]
    for _ in range(25):
        while len(entries) <= length:
            entries.append(env.step(rng.integers(0, 18, 4)))
        stacks = np.stack([entry.observation["observation"] for entry in entries])
        done = np.stack([entry.terminated | entry.truncated for entry in entries])
        first = np.concatenate([np.zeros((1, 4), bool), done[:-1]])
        frames = np.concatenate([stacks[0, :, :3].swapaxes(0, 1), stacks[:, :, 3]])
        rebuilt = stacked_frames(torch.from_numpy(frames), torch.from_numpy(first)).numpy()
        assert np.array_equal(rebuilt, stacks)
        ends += int(done[:-1].sum())
        entries = entries[-1:]
    assert ends >= 12
    env.close()


def test_lives_and_ends_of_breakout() -> None:
    env = make("breakout", [0, 0], full_action_space=True)
    plain = make("breakout", [0, 0], full_action_space=True, life_loss_ends_return=False)
    env.reset([1, 2])
    plain.reset([1, 2])
    lost, ends = np.zeros(2, int), np.zeros(2, int)
    previous = np.zeros(2, bool)
    for _ in range(500):
        entry, other = env.step(np.full(2, FIRE)), plain.step(np.full(2, FIRE))
        assert not (entry.life_lost & (entry.terminated | previous)).any()
        assert not entry.reward[previous].any()
        assert not other.life_lost.any()
        assert np.array_equal(entry.terminated, other.terminated)
        lost, ends = lost + entry.life_lost, ends + entry.terminated
        if entry.terminated.any():
            assert (lost[entry.terminated] == 4 * ends[entry.terminated]).all(), "the fifth life ends the episode"
        previous = entry.terminated | entry.truncated
    assert (ends >= 2).all()
    env.close()
    plain.close()


def test_rewards_are_the_games_own() -> None:
    env, rng = make("pong,seaquest", [1] * 4), np.random.default_rng(0)
    env.reset(range(4))
    rewards = {float(reward) for _ in range(250) for reward in env.step(rng.integers(0, 18, 4)).reward}
    assert 20.0 in rewards
    env.close()


def test_video_shows_the_screen_of_the_same_episode() -> None:
    factory = parse_environment("pong,breakout", AtariConfig(sticky_actions=0.25))
    env, video = factory.make([1]), factory.make_for_video(1)
    seen, filmed = env.reset([4]), video.reset([4])
    for step in range(80):
        assert np.array_equal(seen.observation["observation"], filmed.observation["observation"])
        action = np.array([(0, FIRE, 3, 4)[step // 5 % 4]])
        seen, filmed = env.step(action), video.step(action)
    picture = video.render()
    assert picture.shape == (210, 160, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 5, "in colour"
    # the luminance of the twin's screen, shrunk, is the newest frame up to the filter's rounding
    grey = picture.astype(float) @ [0.299, 0.587, 0.114]
    rows, columns = np.arange(84) * 210 // 84, np.arange(84) * 160 // 84
    frame = filmed.observation["observation"][0, 3].astype(float)
    assert np.corrcoef(grey[np.ix_(rows, columns)].ravel(), frame.ravel())[0, 1] > 0.9
    env.close()
    video.close()


class Hung:
    """Pong, Breakout and Seaquest, two slots each, where one game's emulator waits indefinitely in ``step``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, game: int, *, one_slot_ended: bool) -> None:
        self.tasks = AtariTasks(["pong", "breakout", "seaquest"], [0, 1, 2] * 2, AtariConfig(), 1, full=True)
        spec = parse_environment("pong,breakout,seaquest", AtariConfig()).spec
        self.env = GymnasiumSlots(self.tasks, spec, [0, 1, 2] * 2, life_losses=True)
        # The largest that the emulator takes: the new game's own must not exceed them.
        self.last = self.env.reset(range(2**31 - 6, 2**31))
        for _ in range(20):
            self.last = self.env.step(np.full(6, FIRE))
        if one_slot_ended:
            # who never serves never loses a life
            actions = np.array([FIRE] * 3 + [0] * 3)
            while not self.last.terminated[game]:
                self.last = self.env.step(actions)
        self.answers: list[StepResult] = []
        self.faults: list[EnvironmentFaultError] = []
        tables = self.tasks._tables
        # an index that is no action of the game's makes the emulator's thread hang
        illegal = [np.full(18, 25) if index == game else table for index, table in enumerate(tables)]
        monkeypatch.setattr(self.tasks, "_tables", illegal)
        self.thread = threading.Thread(target=self._step, daemon=True)
        self.thread.start()
        self.thread.join(timeout=0.5)
        monkeypatch.setattr(self.tasks, "_tables", tables)

    def _step(self) -> None:
        try:
            self.answers.append(self.env.step(np.full(6, FIRE)))
        except EnvironmentFaultError as error:
            self.faults.append(error)


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hung]:
    state = Hung(monkeypatch, game=0, one_slot_ended=False)
    yield state
    state.env.close()


def test_a_hung_game_is_replaced(hung: Hung) -> None:
    assert hung.thread.is_alive()
    assert hung.env.waiting_for == "pong"
    entry = hung.env.recover()
    assert entry is not None
    assert entry.truncated.tolist() == [True, False, False] * 2
    assert not entry.terminated.any()
    assert not entry.life_lost.any()
    frames, before = entry.observation["observation"], hung.last.observation["observation"]
    assert np.array_equal(frames[[0, 3]], before[[0, 3]])
    assert np.array_equal(frames[[1, 2, 4, 5], :3], before[[1, 2, 4, 5], 1:]), "the other games continued"
    assert hung.env.waiting_for == "pong,breakout,seaquest"

    entry = hung.env.step(np.full(6, FIRE))
    assert not (entry.truncated | entry.terminated).any()
    frames = entry.observation["observation"]
    assert not frames[[0, 3], :3].any(), "a reset step"
    assert frames[[0, 3], 3].any()
    assert not entry.reward[[0, 3]].any()
    for _ in range(20):
        later = hung.env.step(np.full(6, FIRE))
    assert later.observation["observation"].any(axis=(2, 3)).all()
    assert hung.thread.is_alive()
    assert not hung.answers
    assert hung.env.recover() is None, "no step is in progress"


def test_a_hung_game_of_which_one_slot_was_due_for_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    hung = Hung(monkeypatch, game=1, one_slot_ended=True)
    assert hung.env.waiting_for == "breakout"
    due, cut = 1, 4
    assert hung.last.terminated[[due, cut]].tolist() == [True, False]
    entry = hung.env.recover()
    assert entry is not None
    assert entry.truncated[[due, cut]].tolist() == [False, True]
    assert not entry.terminated.any()
    stacks = entry.observation["observation"]
    assert not stacks[due, :3].any()
    assert stacks[due, 3].any()
    assert np.array_equal(stacks[cut], hung.last.observation["observation"][cut])

    later = hung.env.step(np.full(6, FIRE))
    assert not (later.truncated | later.terminated | later.life_lost)[[due, cut]].any()
    stacks_later = later.observation["observation"]
    assert np.array_equal(stacks_later[due, :3], stacks[due, 1:]), "its new episode continues"
    assert not stacks_later[cut, :3].any(), "a reset step"
    hung.env.close()


def test_the_new_game_is_that_of_its_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    hung = Hung(monkeypatch, game=1, one_slot_ended=True)
    due, cut = 1, 4
    before = hung.tasks._seeds.copy()
    entry = hung.env.recover()
    assert entry is not None
    seeds = hung.tasks._seeds
    assert np.flatnonzero(seeds != before).tolist() == [due, cut]
    assert hung.tasks._envs[1].ale.get_action_set() == hung.tasks._envs[0].ale.get_action_set(), "all 18 actions"
    fresh, _ = make_game("breakout", 2, AtariConfig(), 1, full=True).reset(seed=seeds[[due, cut]])
    assert np.array_equal(entry.observation["observation"][due], fresh[0])
    frames, reward, *_ = hung.tasks.step(np.full(6, FIRE))
    assert np.array_equal(frames[cut], fresh[1]), "a reset step"
    assert reward[cut] == 0
    hung.env.close()


def test_a_thread_that_wakes_after_its_step_was_finished_touches_nothing(hung: Hung) -> None:
    generation = hung.tasks._generation
    finished = hung.env.recover()
    assert finished is not None
    kept = {key: value.copy() for key, value in finished._asdict().items() if key != "observation"}
    with pytest.raises(EnvironmentFaultError, match="finished by another thread"):
        hung.tasks._gather(generation)
    assert all(np.array_equal(getattr(finished, key), value) for key, value in kept.items())
    hung.env.step(np.full(6, FIRE))
    hung.tasks.close_at_once()
    for earlier in (generation, generation + 1):
        with pytest.raises(EnvironmentFaultError, match="finished by another thread"):
            hung.tasks._gather(earlier)


def test_a_hung_environment_is_closed_at_once(hung: Hung) -> None:
    hung.env.close()
    assert hung.thread.is_alive()
    assert not hung.answers
