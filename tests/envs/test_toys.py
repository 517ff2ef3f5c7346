"""The toys: episodes, best returns, and a state that continues bit for bit."""

from typing import Any

import numpy as np
import pytest

from machina.envs.builders import TOY_TASKS, parse_environment
from machina.envs.config import ToyConfig
from machina.envs.toys import TOYS, draws
from machina.interfaces import SlotEnv
from machina.types import StepResult


def make(name: str, num_slots: int = 6) -> SlotEnv:
    factory = parse_environment(name, ToyConfig())
    return factory.make([slot % factory.spec.num_tasks for slot in range(num_slots)])


def same(one: StepResult, other: StepResult) -> bool:
    return all(
        np.array_equal(one.observation["observation"], other.observation["observation"])
        if field == "observation"
        else np.array_equal(getattr(one, field), getattr(other, field))
        for field in StepResult._fields
    )


def test_every_toy_has_tasks() -> None:
    assert TOYS.keys() == TOY_TASKS.keys()


def test_draws_are_uniform_and_independent_of_the_batch() -> None:
    seeds, counters = np.arange(5000, dtype=np.uint64), np.arange(5000)
    numbers = draws(seeds, counters, 5)
    assert np.bincount(numbers, minlength=5) == pytest.approx([1000] * 5, abs=120)
    assert np.array_equal(draws(seeds[7:9], counters[7:9], 5), numbers[7:9])


@pytest.mark.parametrize("name", TOYS)
def test_state_continues_bit_for_bit(name: str) -> None:
    env, rng = make(name), np.random.default_rng(3)
    actions = rng.integers(0, env.spec.action.choices[0], (60, 6))
    env.reset(range(6))
    for action in actions[:23]:
        entry = env.step(action)
    state = env.get_state()
    assert state is not None
    later = [env.step(action) for action in actions[23:]]

    again = make(name)
    assert same(again.set_state(state), entry)
    assert all(same(again.step(action), result) for action, result in zip(actions[23:], later, strict=True))
    assert same(env.set_state(state), entry), "the saved state must not change with the environment"


@pytest.mark.parametrize("name", TOYS)
def test_reset_repeats_with_the_seed_and_slots_do_not_meet(name: str) -> None:
    env, pair = make(name), make(name, 2)
    first, other = env.reset([5, 6, 7, 8, 9, 10]), pair.reset([5, 6])
    assert same(env.reset([5, 6, 7, 8, 9, 10]), first)
    for _ in range(30):
        whole, part = env.step(np.ones(6, np.int64)), pair.step(np.ones(2, np.int64))
        assert np.array_equal(whole.observation["observation"][:2], part.observation["observation"])
    assert np.array_equal(first.observation["observation"][:2], other.observation["observation"])


def test_counting_counts() -> None:
    env = make("counting", 7)
    entry = env.reset([0] * 7)
    lengths, steps, episodes = 3 + np.arange(7) % 5, np.zeros(7), np.zeros(7)
    for _ in range(50):
        ended = entry.terminated | entry.truncated
        entry = env.step(np.zeros(7, np.int64))
        steps, episodes = np.where(ended, 0, steps + 1), episodes + ended
        assert np.array_equal(entry.observation["observation"], np.stack([steps, episodes], axis=1))
        assert np.array_equal(entry.reward, steps)
        assert np.array_equal(entry.terminated, (steps == lengths) & (episodes % 2 == 0))
        assert np.array_equal(entry.truncated, (steps == lengths) & (episodes % 2 == 1))
    assert not entry.life_lost.any()


def returns(env: SlotEnv, act: Any, steps: int) -> tuple[float, float]:
    """Mean return per episode of task 0 and of the last task."""
    entry, sums, ends = env.reset(range(len(env.task_ids))), np.zeros(len(env.task_ids)), np.zeros(len(env.task_ids))
    for _ in range(steps):
        entry = env.step(act(entry.observation["observation"]))
        sums, ends = sums + entry.reward, ends + entry.terminated
    means = sums / ends
    return float(means[env.task_ids == 0].mean()), float(means[env.task_ids == env.task_ids.max()].mean())


def test_catch_returns() -> None:
    def follow(board: Any) -> Any:
        board = board.reshape(-1, 10, 5)
        ball, paddle = board[:, :9].any(axis=1).argmax(axis=1), board[:, 9].argmax(axis=1)
        return 1 + np.sign(ball - paddle)

    assert returns(make("catch"), follow, 100)[0] == 1.0
    assert returns(make("catch", 400), lambda board: np.ones(len(board), np.int64), 100)[0] == pytest.approx(
        -0.6, abs=0.1
    )


def test_two_scales_returns() -> None:
    def right(board: Any) -> Any:
        board = board.reshape(-1, 2, 4)
        return np.where(board[:, 0].any(axis=1), board[:, 0].argmax(axis=1), 3 - board[:, 1].argmax(axis=1))

    # 110 steps are exactly ten episodes of ten steps and a reset step
    assert returns(make("two_scales"), right, 110) == (10.0, 10_000.0)
    small, large = returns(make("two_scales", 400), lambda board: np.zeros(len(board), np.int64), 110)
    assert small == pytest.approx(2.5, abs=0.2)
    assert large == pytest.approx(2500, abs=200)


def test_recall_shows_the_cue_once_and_asks_for_it_20_steps_later() -> None:
    slots, length = 400, 21
    env, rng = make("recall", slots), np.random.default_rng(0)
    entry = env.reset(range(slots))
    cues = []
    for episode in range(3):
        cue = entry.observation["observation"][:, 1].astype(np.int64)
        assert np.array_equal(entry.observation["observation"], np.stack([1 - cue, cue, 0 * cue], axis=1))
        assert not entry.reward.any()
        cues.append(cue)
        for step in range(1, length + 1):
            # The last action decides: right in the first half of the slots, wrong in the second.
            told = np.where(np.arange(slots) < slots // 2, cue, 1 - cue)
            entry = env.step(told if step == length else rng.integers(0, 2, slots))
            seen = entry.observation["observation"]
            assert not seen[:, :2].any(), "the cue is gone"
            assert np.allclose(seen[:, 2], step / 20)
            assert entry.terminated.all() == entry.terminated.any() == (step == length)
            assert not entry.truncated.any()
            right = np.where(np.arange(slots) < slots // 2, 1, -1)
            assert np.array_equal(entry.reward, right * (step == length))
        entry = env.step(np.full(slots, episode % 2))
    shares = np.stack(cues).mean(axis=1)
    assert shares == pytest.approx([0.5] * 3, abs=0.1), "either cue as often, whatever was done before"
    assert not np.array_equal(cues[0], cues[1])


def test_pictures() -> None:
    env = parse_environment("catch", ToyConfig()).make_for_video(0)
    env.reset([0])
    picture = env.render()
    assert picture.shape == (240, 120, 3)
    assert picture.max() == 255
    assert picture.dtype == np.uint8
