"""A run that plays blind says so, once; one that sees anything does not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import machina
from machina.actors.sight import MOST_STEPS, STEPS, SightCheck
from machina.envs.builders import parse_environment
from machina.envs.config import GameConfig
from machina.envs.games.multi_agent import MultiAgentSlots
from machina.envs.games.pettingzoo_game import ParallelGames
from machina.envs.games.pettingzoo_specs import build, read_spec
from machina.specs import ArraySpec, EnvSpec, discrete
from machina.types import StepResult

GAMES = Path(__file__).parents[1] / "envs"


@pytest.fixture
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(GAMES))


def test_a_game_that_draws_only_in_a_render_mode() -> None:
    """As cooperative_pong is when it is built without one; a game of it is over after a few steps or dozens."""
    spec = read_spec("pettingzoo:butterfly/cooperative_pong-v6", "names", {})
    env = MultiAgentSlots(ParallelGames([build(spec.name)], spec), spec, 1)
    sight = SightCheck(spec, env.reset([1, 1]))
    said = None
    for step in range(1, 1000):
        entry = env.step(np.full(2, step // 20 % 2 + 1))
        if (said := sight.look(entry)) is not None:
            break
    assert step >= STEPS
    assert said is not None
    assert said.startswith("no element of any observation of pettingzoo:butterfly/cooperative_pong-v6 changed in the")
    env.close()


@pytest.mark.parametrize("name", ["connect_four", "simple_tag", "pettingzoo:butterfly/cooperative_pong-v6"])
def test_games_that_are_seen(name: str) -> None:
    factory = parse_environment(name, GameConfig())
    env = factory.make([seat.role for seat in factory.spec.seats])
    num_slots = len(factory.spec.seats)
    sight = SightCheck(factory.spec, env.reset([1] * num_slots))
    assert sight.look(env.step(np.ones(num_slots, np.int64))) == ""
    env.close()


def looks(length: int, seen: Callable[[int, int], float], most: int = 3 * MOST_STEPS) -> tuple[int, str | None]:
    """Steps until a check of games that all have ``length`` steps answers, and what it answers.

    Args:
        length: of a game.
        seen: what is observed in a game, of its number, at a step.
        most: steps after which it is asked no more.
    """
    spec = EnvSpec(
        name="short", tasks=("short",), observation={"o": ArraySpec(shape=(1,), dtype="float32")}, action=discrete(2)
    )

    def entry(game: int, step: int) -> StepResult:
        zeros, no = np.zeros(1, np.float32), np.zeros(1, np.bool_)
        return StepResult(
            {"o": np.full((1, 1), seen(game, step), np.float32)},
            zeros,
            np.full(1, step == length),
            no,
            no,
            ~no,
            zeros,
            zeros,
            zeros,
        )

    sight = SightCheck(spec, entry(0, 0))
    for steps in range(1, most):
        game, step = divmod(steps, length + 1)
        if (said := sight.look(entry(game, step))) is not None:
            return steps, said
    return most, None


@pytest.mark.parametrize("length", [1, 5, STEPS - 1])
def test_games_that_are_too_short_to_tell_add_up(length: int) -> None:
    steps, said = looks(length, lambda *_: 0.5)
    assert said is not None
    assert said.startswith(f"no element of any observation of short changed in the first {STEPS} steps of its games")
    assert steps - steps // (length + 1) == STEPS, "reset steps do not count"


def test_what_differs_between_short_games_only_is_not_called_blind() -> None:
    """A bandit shows who asks, and nothing that comes of an answer; it is not watched indefinitely."""
    steps, said = looks(1, lambda game, _: game)
    assert said == ""
    assert steps - steps // 2 == MOST_STEPS
    assert looks(5, lambda game, step: float(game == 3 and step == 2)) == (3 * 6 + 2, "")
    assert looks(STEPS, lambda game, _: game)[0] == STEPS, "a whole game of this length without a change is enough"


@pytest.mark.usefixtures("on_path")
@pytest.mark.parametrize("place", ["inline", "local"])
def test_a_run_says_so_once(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = machina.train(
        "ppo",
        "ending_games:parallel_env",
        "defaults",
        runs_dir=tmp_path,
        name="run",
        place=place,
        envs_per_task=4,
        unroll_length=16,
        batch_size=4,
        total_frames=1024,
        hidden_sizes=(8,),
    )
    said = [line for line in capsys.readouterr().out.splitlines() if "no element of any observation" in line]
    assert len(said) == 1
    assert "ending_games:parallel_env" in said[0]
    assert "replaced" not in said[0]
    assert not (run.path / "faults.log").exists()
