"""How games of a user's own may end: each way is the end of the game, with every reward that was paid."""

import re
import threading
from contextlib import nullcontext
from typing import Any

import ending_games
import numpy as np
import pytest
from pettingzoo import AECEnv

from machina.config import RuntimeConfig
from machina.envs.games.multi_agent import MultiAgentSlots
from machina.envs.games.pettingzoo_game import AecGames, ParallelGames
from machina.envs.games.pettingzoo_specs import build_several, read_spec
from machina.envs.games.scripted import random_player
from machina.envs.games.table import GameFactory
from machina.errors import EnvironmentFaultError, RunFailedError, UserError
from machina.interfaces import SlotEnv
from machina.jobs.match import match, play_timed
from machina.play.evaluation import evaluate
from machina.play.matches import RulePlayer


def make(kind: str, num_games: int = 1) -> SlotEnv:
    name = f"ending_games:{kind}"
    spec = read_spec(name, "names", {})
    envs = build_several(name, num_games, for_video=False)
    games = AecGames(envs, spec) if isinstance(envs[0], AECEnv) else ParallelGames(envs, spec)
    return MultiAgentSlots(games, spec, num_games)


def play(env: SlotEnv, steps: int) -> list[tuple[list[float], list[bool]]]:
    """Rewards and ends of this many steps; nothing here is ever truncated."""
    num_slots = len(env.task_ids)
    env.reset([1] * num_slots)
    entries = [env.step(np.zeros(num_slots, np.int64)) for _ in range(steps)]
    assert not any(entry.truncated.any() for entry in entries)
    return [(entry.reward.tolist(), entry.terminated.tolist()) for entry in entries]


T, F = True, False
BOTH = [([1, 1], [F, F])] * 4 + [([1, 1], [T, T]), ([0, 0], [F, F])]


@pytest.mark.parametrize(
    ("kind", "game"),
    [
        ("Ending", BOTH),
        ("NoFlags", BOTH),
        ("NoFlagsEverybody", BOTH),
        ("RllibKeys", BOTH),
        ("Gone", [([1, 1], [F, F])] * 2 + [([1, 0], [F, T])] * 2 + [([1, 0], [T, T]), ([0, 0], [F, F])]),
        (
            "OnlyTheLivingSee",
            [([1, 1], [F, F]), ([1, -1], [F, T]), *[([1, 0], [F, T])] * 2, ([1, 0], [T, T]), ([0, 0], [F, F])],
        ),
    ],
)
def test_ends_of_parallel_games(kind: str, game: list[Any]) -> None:
    assert play(make(kind), 12) == game * 2
    two = play(make(kind, 2), 12)
    assert two == [(rewards * 2, ends * 2) for rewards, ends in game * 2], "game by game"


@pytest.mark.parametrize("kind", ["Turns", "TurnsNoFlags", "TurnsCumulativeNoFlags"])
def test_ends_of_turn_based_games(kind: str) -> None:
    entries = play(make(kind), 14)
    for game in (entries[:7], entries[7:]):
        assert [ends for _, ends in game] == [[F, F]] * 5 + [[T, T], [F, F]]
        assert np.sum([rewards for rewards, _ in game], axis=0).tolist() == [3, 3]
        assert game[-1][0] == [0, 0], "the reset step"


def test_who_is_cut_has_to_see_the_game() -> None:
    env = make("CutUnseen")
    env.reset([1, 1])
    env.step(np.zeros(2, np.int64))
    with pytest.raises(EnvironmentFaultError, match="the step gave no observation of right_0"):
        env.step(np.zeros(2, np.int64))


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ({"observation": np.array([0.1, 0.5])}, "observation of right_0 holds 0.1 (float64), its space is of uint8"),
        ({"observation": np.array([3, 256])}, "observation of right_0 holds 256 (int64), its space is of uint8"),
        ({"observation": 7}, "observation of right_0 has shape (), its space has (2,)"),
        ({"observation": np.array([1.0, np.nan])}, "observation of right_0 holds nan (float64)"),
        ({"reward": np.ones(2)}, "reward of right_0 has shape (2,), it must be one number"),
        ({"flag": 2}, "truncation of right_0 is 2, it must be True or False"),
    ],
)
def test_what_the_spaces_do_not_declare_is_a_fault(way: dict[str, Any], message: str) -> None:
    spec = read_spec("ending_games:Misdeclared", "names", {})
    games = [ending_games.Misdeclared() for _ in range(2)]
    for name, value in way.items():
        setattr(games[1], name, value)
    env = MultiAgentSlots(ParallelGames(list(games), spec), spec, 2)
    env.reset([1] * 4)
    entry = env.step(np.zeros(4, np.int64))
    assert entry.observation["observation"].tolist() == [[1, 1]] * 4, "integers that fit are cast"
    with pytest.raises(EnvironmentFaultError, match=re.escape(message)) as fault:
        env.step(np.zeros(4, np.int64))
    assert "environment 'ending_games:Misdeclared'" in str(fault.value)


class ByNumber:
    """A policy that answers 0."""

    def initial_core_state(self, num_slots: int) -> Any:  # noqa: ARG002
        return ()

    def act(self, inputs: Any) -> Any:
        from machina.types import ActorOutput

        return ActorOutput(np.zeros(len(inputs.reward), np.int64), {}, ())


@pytest.mark.parametrize(("kind", "length", "paid"), [("NoFlagsEverybody", 5, 5.0), ("TurnsNoFlags", 6, 3.0)])
def test_an_evaluation_of_a_game_without_flags_ends(kind: str, length: int, paid: float) -> None:
    factory = GameFactory(spec=read_spec(f"ending_games:{kind}", "names", {}), max_steps=None)
    result = evaluate(factory, ByNumber(), [0, 1], 3, seed=1, run="none", env_steps=0)  # type: ignore[arg-type]
    assert {returns for each in result.episodes.values() for returns in each} == {paid}
    assert {each for lengths in result.lengths.values() for each in lengths} == {length}


def test_a_match_repeats_whatever_its_game_draws_from() -> None:
    factory = GameFactory(spec=read_spec("ending_games:Dice", "names", {}), max_steps=None)
    players = [RulePlayer(name, random_player(factory.spec.action)) for name in ("one", "other")]
    one, same, different = (play_timed(factory, 60, players, 8, seed) for seed in (1, 1, 2))
    assert one == same
    assert one.games != different.games


def test_a_match_of_a_game_that_hangs_as_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    monkeypatch.setattr(ending_games, "parallel_env", lambda: let_go.wait())
    monkeypatch.setattr("machina.jobs.match.RuntimeConfig", lambda: RuntimeConfig(step_timeout_s=0.1))
    monkeypatch.setattr("machina.actors.stepping.LEAST_BUILD_TIMEOUT_S", 0.0)
    with pytest.raises(EnvironmentFaultError, match=r"parallel_env': building it takes longer than 0\.1 s"):
        match(["random", "random"], 2, game="ending_games:parallel_env")
    let_go.set()


@pytest.mark.parametrize("kind", ["Simulator", "BreakingSimulator"])
def test_programs_that_games_start_end_with_them(kind: str) -> None:
    factory = GameFactory(spec=read_spec(f"ending_games:{kind}", "names", {}), max_steps=None)
    with pytest.raises(RunFailedError, match="the simulator stalled") if kind != "Simulator" else nullcontext():
        evaluate(factory, ByNumber(), [0, 1], 3, seed=1, run="none", env_steps=0)  # type: ignore[arg-type]
    programs = ending_games.Simulator.programs
    assert len(programs) >= 4, "one to read the spaces, three games"
    assert all(program.poll() is not None for program in programs)
    programs.clear()


def test_every_environment_is_closed_whatever_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("machina.envs.declared.CLOSE_TIMEOUT_S", 0.05)
    spec = read_spec("ending_games:Ending", "names", {})
    envs = [ending_games.Ending() for _ in range(3)]
    let_go = threading.Event()

    def refuse() -> None:
        raise RuntimeError("still busy")

    envs[0].close = refuse  # type: ignore[method-assign]
    envs[1].close = let_go.wait  # type: ignore[assignment,method-assign]
    MultiAgentSlots(ParallelGames(list(envs), spec), spec, 3).close()
    let_go.set()
    assert [env.closed for env in envs] == [False, False, True]


def test_what_closing_raises_hides_nothing_that_building_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its spaces are read all the same, and a refusal is the refusal."""

    def refuse(_self: Any) -> None:
        raise RuntimeError("still busy")

    monkeypatch.setattr(ending_games.Ending, "close", refuse)
    assert read_spec("ending_games:Ending", "names", {}).tasks == ("left", "right")
    built = iter([ending_games.Ending()])
    monkeypatch.setattr(ending_games, "scarce", lambda: next(built), raising=False)
    with pytest.raises(UserError, match="can't be built: StopIteration"):
        build_several("ending_games:scarce", 2, for_video=False)
    monkeypatch.setattr(ending_games.Ending, "possible_agents", [], raising=False)
    monkeypatch.setattr(ending_games.Ending, "__init__", lambda _self: None)
    with pytest.raises(UserError, match="doesn't say who may play"):
        read_spec("ending_games:Ending", "names", {})


def test_environments_are_closed_when_the_next_one_cannot_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[ending_games.Ending] = []

    def scarce() -> ending_games.Ending:
        if len(built) == 2:
            raise OSError("no port is free")
        built.append(ending_games.Ending())
        return built[-1]

    monkeypatch.setattr(ending_games, "scarce", scarce, raising=False)
    with pytest.raises(UserError, match="no port is free"):
        build_several("ending_games:scarce", 3, for_video=False)
    assert [env.closed for env in built] == [True, True]
