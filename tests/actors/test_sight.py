"""Who plays blind is told so, once; who sees anything is not."""

from pathlib import Path

import numpy as np
import pytest

import machina
from machina.actors.sight import STEPS, SightCheck
from machina.envs.builders import parse_environment
from machina.envs.config import GameConfig
from machina.envs.games.multi_agent import MultiAgentSlots
from machina.envs.games.pettingzoo_game import ParallelGames
from machina.envs.games.pettingzoo_specs import build, read_spec

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
