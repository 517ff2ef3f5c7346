"""Scores: exactly the episodes asked for, on environments and seeds of their own, in every command the same way."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import yaml
from endless_env import SHARED
from faulty_game import NAME, Trouble
from runs import SMALL, checkpoints

import machina
from machina.checkpoint import RunDirectory, load_checkpoint
from machina.envs.builders import parse_environment
from machina.envs.config import GameConfig, ToyConfig
from machina.envs.games.table import GameFactory
from machina.jobs.film import film
from machina.metrics import read_metrics
from machina.nets.config import NetworkConfig
from machina.nets.policy import SampledPolicy
from machina.play.evaluation import evaluate
from machina.report.evaluation import EvaluationResult, load_evaluation
from machina.types import (
    OBSERVATION,
    ActorInput,
    ActorOutput,
    CoreState,
)


class Staying:
    """Never moves; refuses an entry that shows another episode's memory."""

    def initial_core_state(self, num_slots: int) -> CoreState:
        return (np.zeros((num_slots, 1), np.float32),)

    def act(self, inputs: ActorInput) -> ActorOutput:
        observation, reward, previous_action, first, task_id, core_state, uniforms, _ = inputs
        step = observation[OBSERVATION].reshape(-1, 10, 5)[:, :9].argmax(axis=1).max(axis=1)
        landed = reward != 0
        np.testing.assert_array_equal(core_state[0][:, 0][~landed], step[~landed])
        np.testing.assert_array_equal(previous_action == -1, (core_state[0] == 0)[:, 0])
        np.testing.assert_array_equal(previous_action == -1, first)
        assert not task_id.any()
        assert uniforms.min() >= 0
        action = np.ones(len(step), np.int64)
        return ActorOutput(action, {}, (core_state[0] + 1,))

    def load_parameters(self, parameters: Any, done: float) -> None:
        raise NotImplementedError

    def load_tensors(self, tensors: Any) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("episodes", [1, 3, 64, 70, 131])
def test_exactly_the_episodes_asked_for(episodes: int) -> None:
    told: list[tuple[int, int]] = []
    factory = parse_environment("catch", ToyConfig())
    result = evaluate(
        factory, Staying(), [0], episodes, seed=4, run="r", env_steps=7, progress=lambda *each: told.append(each)
    )
    assert len(result.episodes["catch"]) == episodes
    assert result.lengths["catch"] == (9,) * episodes
    assert set(result.episodes["catch"]) <= {-1.0, 1.0}
    assert told == [(done, episodes) for done in range(1, episodes + 1)]
    if episodes > 50:
        # The ball lands on the paddle in one case of five.
        assert -0.9 < result.mean_returns["catch"] < -0.2


def test_the_seed_decides_the_score() -> None:
    factory = parse_environment("catch", ToyConfig())

    def score(seed: int) -> tuple[float, ...]:
        return evaluate(factory, Staying(), [0], 20, seed=seed, run="r", env_steps=0).episodes["catch"]

    assert score(1) == score(1)
    assert score(1) != score(2)


@pytest.mark.parametrize("games", [40, math.inf])
def test_an_agent_that_never_plays_is_named(games: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would never have its episodes; one that sits out some games has them later."""
    monkeypatch.setattr("faulty_game.trouble", trouble := Trouble())
    trouble.thread, trouble.fault, trouble.left = "MainThread", "absent", games
    factory = parse_environment(NAME, GameConfig())
    network = NetworkConfig(hidden_sizes=(4,))

    def play() -> EvaluationResult:
        policy = SampledPolicy(network, factory.spec, "cpu", "float32")
        return evaluate(factory, policy, [0, 1], 30, seed=1, run="r", env_steps=0)

    if games == math.inf:
        with pytest.raises(machina.RunFailedError, match="agent 'red_0' had no step in 100 games"):
            play()
    else:
        assert {task: len(each) for task, each in play().episodes.items()} == {"red": 30, "blue": 30}


def test_an_evaluation_can_be_given_up() -> None:
    factory = parse_environment("catch", ToyConfig())
    asked = iter([False] * 5 + [True])
    with pytest.raises(machina.RunFailedError, match="stopped before its end"):
        evaluate(factory, Staying(), [0], 20, seed=1, run="r", env_steps=0, stop=lambda: next(asked))


def train(runs_dir: Path, environment: str = "two_scales", **options: Any) -> Path:
    defaults = {**SMALL, "name": "run", "runs_dir": runs_dir, "envs_per_task": 4, "total_frames": 800}
    return machina.train("impala", environment, **{**defaults, **options}).path


def test_tasks_can_be_chosen(tmp_path: Path) -> None:
    path = train(tmp_path)
    everything = machina.evaluate(path, episodes=37)  # 32 slots for each of the two
    assert {task: len(returns) for task, returns in everything.episodes.items()} == {"small": 37, "large": 37}
    from machina.jobs.eval import evaluate_run

    assert evaluate_run(path, 5, ["large"]).episodes.keys() == {"large"}
    assert evaluate_run(path, 5, ["large,small"]).episodes.keys() == {"large", "small"}
    with pytest.raises(machina.UserError, match="games: large given more than once"):
        evaluate_run(path, 5, ["large", "large"])
    with pytest.raises(machina.UserError, match="no task 'larg'; did you mean 'large'"):
        evaluate_run(path, 5, ["larg"])


@pytest.mark.parametrize("place", ["inline", "local"])
def test_the_best_checkpoint_is_kept(place: str, tmp_path: Path) -> None:
    path = train(
        tmp_path, place=place, total_frames=1600, eval_every=200, eval_episodes=4, keep_checkpoints=1, unroll_length=10
    )
    scores = {load_evaluation(file).step: load_evaluation(file).score for file in (path / "report").glob("*.json")}
    assert len(scores) == 8, "every 200 frames of 1600"
    best = RunDirectory.open(path).best()
    assert best is not None
    assert best.score == max(scores.values())
    first_best = min(step for step, score in scores.items() if score == best.score)
    assert best.step == first_best, "an equal score replaces nothing"
    steps = {load_checkpoint(folder).step for folder in checkpoints(path)}
    assert steps == {best.step, 1600}
    lines = [line for line in read_metrics(path) if "eval/large" in line]
    assert [line["env_steps"] for line in lines] == sorted(scores)
    again = machina.resume(path)
    assert again.updates == 40


def test_evaluation_does_not_touch_the_training_s_random_streams(tmp_path: Path) -> None:
    plain = train(tmp_path, name="plain")
    evaluated = train(tmp_path, name="evaluated", eval_every=200, eval_episodes=3)
    models = [load_checkpoint(checkpoints(path)[-1]).tensors["model"] for path in (plain, evaluated)]
    assert all((tensor == models[1][name]).all() for name, tensor in models[0].items())


def test_a_loaded_policy_acts_as_evaluation_does(tmp_path: Path) -> None:
    path = train(tmp_path, "catch", lstm_size=8)
    policy = machina.load_policy(path, seed=5)
    env = parse_environment("catch", ToyConfig()).make([0])
    entry = env.reset([3])
    actions = []
    for _ in range(2):
        policy.reset()
        for _ in range(9):
            action = policy.act(entry.observation[OBSERVATION][0], float(entry.reward[0]))
            actions.append(action)
            entry = env.step(np.array([action]))
        assert entry.terminated.all()
        entry = env.step(np.array([0]))
    again = machina.load_policy(path, seed=5)
    again.reset()
    entry = env.reset([3])
    # Double precision, lists, or a flat dict: all that a user may have at hand.
    assert again.act(entry.observation[OBSERVATION][0].astype(np.float64)) == actions[0]
    assert set(actions) <= {0, 1, 2}


def test_a_run_of_a_machine_with_gpus_acts_where_there_are_none(tmp_path: Path) -> None:
    path = train(tmp_path, "catch")
    here = machina.evaluate(path, episodes=5)
    file = path / "config.yaml"
    content = yaml.safe_load(file.read_text())
    content["runtime"] |= {"device": "cuda:7", "actor_device": "cuda:6"}
    file.write_text(yaml.safe_dump(content))
    assert machina.evaluate(path, episodes=5) == here
    with pytest.raises(machina.UserError, match=r"device 'cuda:7' is not here"):
        machina.resume(path)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (np.zeros(7), r"observation 'observation' has shape \(7,\), the policy needs \(50,\)"),
        ({"board": np.zeros(50)}, "observation 'observation' is missing"),
    ],
)
def test_a_loaded_policy_names_a_wrong_observation(observation: Any, message: str, tmp_path: Path) -> None:
    policy = machina.load_policy(train(tmp_path, "catch"))
    policy.reset()
    with pytest.raises(machina.UserError, match=message):
        policy.act(observation)


def test_filming_stops_at_a_fault_or_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = train(tmp_path, "faulty_env:Sound-v0", processes=False)
    result = film(path, None, seed=0, best=False, max_steps=50)
    assert (result.frames, result.episode_return, result.remark) == (9, 8.0, "")
    assert result.file.stat().st_size > 0
    assert film(path, None, seed=1, best=False, max_steps=3).remark == ", cut after 3 env steps"

    config = path / "config.yaml"
    text = config.read_text()
    kwargs = gymnasium.registry["Sound-v0"].kwargs
    monkeypatch.setitem(kwargs, "fault", "raises")
    with pytest.raises(machina.RunFailedError, match=r"filming stopped: .*the engine stalled"):
        film(path, None, seed=2, best=False, max_steps=50)
    monkeypatch.setitem(kwargs, "fault", "sleeps")
    config.write_text(text.replace("step_timeout_s: 60.0", "step_timeout_s: 0.3"))
    with pytest.raises(machina.RunFailedError, match=r"filming stopped: .*no answer"):
        film(path, None, seed=3, best=False, max_steps=50)
    assert len(list((path / "videos").iterdir())) == 2, "nothing half is left behind"


def test_scores_are_stored_with_their_protocol(tmp_path: Path) -> None:
    path = train(tmp_path, "pong", envs_per_task=2, frame_cap=80, sticky_actions=0.25)
    result = machina.evaluate(path, episodes=3, seed=9)
    stored = json.loads(next((path / "report").glob("evaluation-*.json")).read_text())
    assert stored["protocol"] == result.protocol
    assert stored["protocol"]["sticky_actions"] == 0.25
    assert stored["protocol"]["frame_cap"] == 80
    assert stored["seed"] == 9
    assert stored["frames"] == 4 * stored["step"] == 800
    assert result.lengths["pong"] == (20,) * 3


@pytest.mark.parametrize("game", ["connect_four", "simple_tag"])
@pytest.mark.parametrize("episodes", [1, 3, 70])
def test_games_are_played_whole_and_every_role_has_its_episodes(game: str, episodes: int) -> None:
    """Three adversaries and one agent to a game: the roles fill their quotas at different speeds."""
    factory = parse_environment(game, GameConfig())
    policy = SampledPolicy(NetworkConfig(hidden_sizes=(8,)), factory.spec, "cpu", "float32")
    tasks = range(factory.spec.num_tasks)
    result = evaluate(factory, policy, tasks, episodes, seed=4, run="r", env_steps=7)
    assert {name: len(returns) for name, returns in result.episodes.items()} == dict.fromkeys(
        factory.spec.tasks, episodes
    )
    last = factory.spec.tasks[-1]
    alone = evaluate(factory, policy, tasks[-1:], episodes, seed=4, run="r", env_steps=7)
    assert {name: len(returns) for name, returns in alone.episodes.items()} == {last: episodes}


@pytest.mark.parametrize("episodes", [1, 8, 30])
def test_the_episodes_of_a_game_are_games(episodes: int) -> None:
    """Eight workers of one role share each game's reward: this many games, not this many agents of one game."""
    factory = parse_environment(SHARED, GameConfig())
    policy = SampledPolicy(NetworkConfig(hidden_sizes=(4,)), factory.spec, "cpu", "float32")
    result = evaluate(factory, policy, [0], episodes, seed=1, run="r", env_steps=0)
    returns = result.episodes["worker"]
    assert len(set(returns)) == len(returns) == episodes
    assert result.lengths["worker"] == (1,) * episodes
    if episodes == 30:
        # Of independent draws from the standard normal; the mean's deviation is 0.18, the deviation's 0.13.
        assert abs(np.mean(returns)) < 0.6
        assert 0.6 < np.std(returns) < 1.4


def test_games_are_spread_over_all_that_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 slots hold eight games of eight; 30 are 4 on six of them and 3 on two, whichever are faster."""
    built: list[int] = []
    monkeypatch.setattr("machina.envs.games.table.GameFactory.make", noted(GameFactory.make, built))
    factory = parse_environment(SHARED, GameConfig())
    policy = SampledPolicy(NetworkConfig(hidden_sizes=(4,)), factory.spec, "cpu", "float32")
    told: list[tuple[int, int]] = []
    evaluate(factory, policy, [0], 30, seed=1, run="r", env_steps=0, progress=lambda *each: told.append(each))
    assert built == [64]
    assert told == [(done, 30) for done in range(1, 31)]


def noted(make: Any, built: list[int]) -> Any:
    def noting(factory: Any, task_ids: Any, progress: Any = None) -> Any:
        built.append(len(task_ids))
        return make(factory, task_ids, progress)

    return noting


def test_an_episode_without_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("machina.specs.LONGEST_EPISODE", 200)
    path = train(tmp_path, "endless_env:Walk-v0", processes=False)
    with pytest.raises(machina.RunFailedError) as caught:
        machina.evaluate(path, episodes=3)
    assert str(caught.value) == (
        "evaluation stopped: environment 'endless_env:Walk-v0': an episode did not end in 200 env steps; give it a "
        "limit: --max-steps, or one of its own"
    )
    monkeypatch.setattr("endless_env.Shared.ends", False)
    factory = parse_environment(SHARED, GameConfig())
    policy = SampledPolicy(NetworkConfig(hidden_sizes=(4,)), factory.spec, "cpu", "float32")
    with pytest.raises(machina.RunFailedError, match="did not end in 200 env steps"):
        evaluate(factory, policy, [0], 2, seed=1, run="r", env_steps=0)
    limited = parse_environment(SHARED, GameConfig(max_steps=300))
    assert evaluate(limited, policy, [0], 2, seed=1, run="r", env_steps=0).lengths == {"worker": (300, 300)}


def test_minutes_hold_while_an_evaluation_plays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its episodes would never end; the run does, with a checkpoint."""
    started = time.monotonic()
    path = train(tmp_path, "endless_env:Walk-v0", processes=False, total_frames=10**9, eval_every=400, minutes=3 / 60)
    assert time.monotonic() - started < 20
    assert checkpoints(path)
    out = capsys.readouterr().out
    assert "no evaluation: evaluation stopped before its end; it has no score\n" in out
    assert "0.05 minutes are over" in out
