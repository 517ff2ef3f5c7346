"""Evaluation of scripted episodes, whose returns and lengths are known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch

import machina.play.evaluation as evaluation
from machina.errors import EnvironmentFaultError, RunFailedError
from machina.interfaces import SlotEnv
from machina.play.evaluation import evaluate
from machina.report.evaluation import EvaluationResult
from machina.specs import ArraySpec, EnvSpec, Seat, discrete
from machina.streams import SlotStreams
from machina.types import ActorInput, ActorOutput, Array, CoreState, StepResult, single_agent_step

SPEC = EnvSpec(
    name="ladder",
    tasks=("low", "high"),
    observation={"observation": ArraySpec(shape=(1,), dtype="float32")},
    action=discrete(2),
    frames_per_step=4,
    protocol={"rungs": 3},
)
SEATS = tuple(Seat(agent=name, role=role, team=role) for name, role in (("a", 0), ("b", 0), ("c", 1)))
GAME = SPEC.model_copy(update={"seats": SEATS})

Lengths = Callable[[int, int], int]
"""Env steps of a slot's episode, of how many; 0 where the agent takes no part in the game."""


def uneven(slot: int, episode: int) -> int:
    return 1 + (slot + 2 * episode) % 4


def return_of(slot: int, episode: int, length: int) -> float:
    """Of rewards 100 slot + 10 episode + step."""
    return length * (100 * slot + 10 * episode) + length * (length + 1) / 2


class Ladder:
    """Episodes as they are written; implements ``machina.interfaces.SlotEnv``, and records."""

    waiting_for = ""

    def __init__(self, spec: EnvSpec, task_ids: Sequence[int], lengths: Lengths, fails_at: int) -> None:
        self.spec, self.task_ids = spec, np.array(task_ids, np.int64)
        self.lengths, self.fails_at = lengths, fails_at
        self.steps, self.closed = 0, False
        self.seeds: list[int] = []
        self.episode, self.age = np.zeros(len(task_ids), int), np.zeros(len(task_ids), int)

    def reset(self, seeds: Sequence[int]) -> StepResult:
        self.seeds = list(seeds)
        return self._entry()

    def step(self, actions: Array) -> StepResult:  # noqa: ARG002
        self.steps += 1
        if self.steps == self.fails_at:
            raise EnvironmentFaultError("the ladder broke")
        over = self._over()
        self.episode += over
        self.age = np.where(over, 0, self.age + 1)
        return self._entry()

    def close(self) -> None:
        self.closed = True

    def _now(self) -> Array:
        return np.array([self.lengths(slot, int(episode)) for slot, episode in enumerate(self.episode)])

    def _over(self) -> Array:
        ends = (self.age >= self._now()).reshape(-1, self.spec.slots_per_game)
        return np.asarray(ends.all(axis=1).repeat(self.spec.slots_per_game))

    def _entry(self) -> StepResult:
        slots, length = np.arange(len(self.age)), self._now()
        played = (self.age > 0) & (self.age <= length)
        reward = np.where(played, 100 * slots + 10 * self.episode + self.age, 0).astype(np.float32)
        ended = self.age >= length
        odd = self.episode % 2 == 1
        observation = {"observation": self.age[:, None].astype(np.float32)}
        return single_agent_step(observation, reward, ended & ~odd, ended & odd, np.zeros_like(ended))


class Ladders:
    """Implements ``machina.interfaces.EnvFactory``."""

    def __init__(self, spec: EnvSpec = SPEC, lengths: Lengths = uneven, fails_at: int = -1) -> None:
        self.spec, self._lengths, self._fails_at = spec, lengths, fails_at
        self.made: list[Ladder] = []

    def make(self, task_ids: Sequence[int], progress: object = None) -> SlotEnv:  # noqa: ARG002
        self.made.append(Ladder(self.spec, task_ids, self._lengths, self._fails_at))
        return self.made[-1]  # type: ignore[return-value]

    def make_for_video(self, task_id: int) -> SlotEnv:
        raise NotImplementedError


class Counting:
    """Implements ``machina.interfaces.Policy``: its core state counts the steps since an episode's start."""

    def __init__(self) -> None:
        self.asked: list[ActorInput] = []

    def initial_core_state(self, num_slots: int) -> CoreState:
        return (np.zeros((num_slots, 1), np.float32),)

    def act(self, inputs: ActorInput) -> ActorOutput:
        self.asked.append(inputs)
        slots = len(inputs.reward)
        return ActorOutput(np.ones(slots, np.int64), {}, (inputs.core_state[0] + 1,))

    def load_parameters(self, parameters: torch.Tensor, done: float) -> None:
        raise NotImplementedError

    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        raise NotImplementedError


def run(
    factory: Ladders, tasks: Sequence[int], episodes: int, policy: Counting | None = None, **options: object
) -> EvaluationResult:
    result = evaluate(factory, policy or Counting(), tasks, episodes, 5, "runs/x", 70, **options)  # type: ignore[arg-type]
    assert all(env.closed for env in factory.made)
    return result


@pytest.mark.parametrize("episodes", [1, 5, 33, 70])
@pytest.mark.parametrize("tasks", [(0, 1), (1,)])
def test_every_slot_plays_its_share_of_the_episodes(tasks: tuple[int, ...], episodes: int) -> None:
    """At most 64 slots, which take turns at the tasks; what is left over goes to the first of a task."""
    factory = Ladders()
    result = run(factory, tasks, episodes)
    slots = min(episodes, 64 // len(tasks)) * len(tasks)
    (env,) = factory.made
    assert env.task_ids.tolist() == [tasks[slot % len(tasks)] for slot in range(slots)]
    assert list(result.episodes) == [SPEC.tasks[task] for task in tasks]
    for task in tasks:
        own = [slot for slot in range(slots) if env.task_ids[slot] == task]
        shares = [episodes // len(own) + (index < episodes % len(own)) for index in range(len(own))]
        played = [(slot, k) for slot, share in zip(own, shares, strict=True) for k in range(share)]
        name = SPEC.tasks[task]
        assert result.lengths[name] == tuple(uneven(*each) for each in played)
        assert result.episodes[name] == tuple(return_of(*each, uneven(*each)) for each in played)


def test_what_the_result_says_of_itself() -> None:
    result = run(Ladders(), (0,), 2)
    assert (result.run, result.step, result.frames, result.seed) == ("runs/x", 70, 280, 5)
    assert result.protocol == {"rungs": 3}


def test_seeds_are_the_evaluations_own() -> None:
    """Those of the environments, and one for the actions, from a stream that training does not use."""
    factory, policy = Ladders(), Counting()
    run(factory, (0, 1), 3, policy)
    drawn = np.random.SeedSequence([5, 3]).generate_state(7)
    assert factory.made[0].seeds == [int(each) // 2 for each in drawn[:6]]
    first = SlotStreams(int(drawn[6]), np.arange(6), ()).next()
    assert policy.asked[0].uniforms.tolist() == first.tolist()
    other = Counting()
    evaluate(Ladders(), other, (0, 1), 3, 6, "runs/x", 70)
    again = Counting()
    run(Ladders(), (0, 1), 3, again)
    uniforms = [asked.asked[0].uniforms.tolist() for asked in (policy, again, other)]
    assert uniforms[0] == uniforms[1] != uniforms[2]


def test_memory_starts_afresh_with_every_episode() -> None:
    """The first entry after an end comes after a reset step, whose action is ignored."""
    policy = Counting()
    run(Ladders(), (0, 1), 40, policy)
    age = np.zeros(64)
    for before, inputs in zip([None, *policy.asked], policy.asked, strict=False):
        ended = np.zeros(64, bool) if before is None else inputs.core_state[0][:, 0] < before.core_state[0][:, 0] + 1
        age = np.where(ended, 0, age)
        assert np.array_equal(inputs.core_state[0][:, 0], age)
        assert np.array_equal(inputs.first, age == 0)
        assert (inputs.previous_action == np.where(age == 0, -1, 1)).all()
        age += 1
    env = Ladder(SPEC, [0, 1] * 32, uneven, -1)
    entry = env.reset([])
    for inputs in policy.asked:
        assert np.array_equal(inputs.reward, entry.reward)
        assert np.array_equal(inputs.observation["observation"], entry.observation["observation"])
        entry = env.step(np.zeros(64))


def test_progress_counts_episodes() -> None:
    told: list[tuple[int, int]] = []
    run(Ladders(), (0, 1), 70, progress=lambda done, wanted: told.append((done, wanted)))
    assert told == [(done, 140) for done in range(1, 141)]


def test_progress_is_reported_from_time_to_time_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    for every, more in ((0.0, 8), (1e6, 0)):
        monkeypatch.setattr(evaluation, "TOLD_EVERY_S", every)
        told.clear()
        run(Ladders(lengths=lambda _slot, _k: 8), (0,), 2, progress=lambda *counts: told.append(counts))
        assert told == [(0, 2)] * more + [(1, 2), (2, 2)]


def test_it_can_be_stopped_and_a_fault_ends_it() -> None:
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) > 3

    factory = Ladders()
    with pytest.raises(RunFailedError, match=r"^evaluation stopped before its end; it has no score$"):
        run(factory, (0,), 64, stop=stop)
    assert (factory.made[0].steps, factory.made[0].closed) == (3, True)
    factory = Ladders(fails_at=2)
    with pytest.raises(RunFailedError, match=r"^evaluation stopped: the ladder broke"):
        run(factory, (0,), 5)
    assert factory.made[0].closed


def test_an_episode_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where somebody waits for it."""
    monkeypatch.setattr("machina.specs.LONGEST_EPISODE", 9)
    factory = Ladders(lengths=lambda slot, _: 10**6 if slot == 3 else 8)
    with pytest.raises(RunFailedError, match="'ladder'"):
        run(factory, (0,), 7)
    assert factory.made[0].steps == 9
    assert run(Ladders(lengths=lambda slot, k: 10**6 if k and slot else 8), (0,), 7).lengths["low"] == (8,) * 7
    assert run(Ladders(lengths=lambda _slot, _k: 8), (0,), 7).lengths["low"] == (8,) * 7
    last = Ladders(lengths=lambda slot, k: 8 if slot == 0 else 10**6 if k else 1)
    assert run(last, (0,), 65).lengths["low"] == (8, 8) + (1,) * 63, "the second game of slot 0 is waited for"


@pytest.mark.parametrize("episodes", [1, 4, 30])
@pytest.mark.parametrize("tasks", [(0, 1), (1,), (0,)])
def test_a_game_is_one_episode_of_each_role(tasks: tuple[int, ...], episodes: int) -> None:
    """The mean of the role's agents that played, and the longest of their episodes; at most 21 games of 3 fit."""

    def lengths(slot: int, episode: int) -> int:
        return 0 if slot % 3 == 1 and episode == 1 else uneven(slot, episode)

    factory = Ladders(GAME, lengths)
    result = run(factory, tasks, episodes)
    games = min(episodes, 21)
    assert factory.made[0].task_ids.tolist() == [0, 0, 1] * games
    shares = [episodes // games + (game < episodes % games) for game in range(games)]
    for task in tasks:
        returns, longest = [], []
        for game, share in enumerate(shares):
            for k in range(share):
                seats = [3 * game + seat for seat in ((0, 1) if task == 0 else (2,))]
                seats = [slot for slot in seats if lengths(slot, k)]
                returns.append(np.mean([return_of(slot, k, lengths(slot, k)) for slot in seats]))
                longest.append(max(lengths(slot, k) for slot in seats))
        assert result.episodes[GAME.tasks[task]] == pytest.approx(returns)
        assert result.lengths[GAME.tasks[task]] == tuple(longest)


def test_an_agent_that_never_plays_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it is asked for, after this many games in a row; one game of its own restarts the count."""
    with pytest.raises(RunFailedError, match=r"agent 'c' had no step in 100 games"):
        run(Ladders(GAME, lambda slot, _: 2 * (slot % 3 < 2)), (1,), 1)
    monkeypatch.setattr(evaluation, "ABSENT_GAMES", 3)
    with pytest.raises(RunFailedError, match=r"agent 'c' had no step in 3 games; don't list it as possible"):
        run(Ladders(GAME, lambda slot, _: 2 * (slot % 3 < 2)), (0, 1), 4)
    with pytest.raises(RunFailedError, match=r"agent 'a', 'b' had no step in 3 games"):
        run(Ladders(GAME, lambda slot, _: 2 * (slot % 3 == 2)), (0,), 1)
    assert run(Ladders(GAME, lambda slot, _: 2 * (slot % 3 < 2)), (0,), 9).lengths["low"] == (2,) * 9
    rarely = run(Ladders(GAME, lambda slot, k: 2 * (slot % 3 < 2 or k % 3 == 2)), (1,), 25)
    assert rarely.lengths["high"] == (2,) * 25
