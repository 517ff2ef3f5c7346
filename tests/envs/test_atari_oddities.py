"""Where ale-py behaves otherwise than one would guess."""

import subprocess
import sys
from pathlib import Path

import ale_py
import numpy as np
import pytest
from ale_py import roms

from machina.cli.main import main
from machina.envs.atari import all_games, make_game
from machina.envs.atari_games import NOT_FOR_ONE
from machina.envs.builders import parse_environment
from machina.envs.config import AtariConfig, GameConfig
from machina.errors import UserError


def loads(game: str) -> bool:
    """Whether the emulator loads a ROM, tried in a process of its own."""
    code = "import sys, ale_py; from ale_py import roms; ale_py.ALEInterface().loadROM(roms.get_rom_path(sys.argv[1]))"
    return subprocess.run([sys.executable, "-c", code, game], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    "game",
    [
        pytest.param(game, marks=[] if game in {*NOT_FOR_ONE, "adventure", "tetris"} else pytest.mark.slow)
        for game in sorted(roms.get_all_rom_ids())
    ],
)
def test_the_emulator_loads_all_roms_but_those_of_two_players(game: str) -> None:
    assert loads(game) == (game not in NOT_FOR_ONE)
    assert (game in all_games()) == (game not in NOT_FOR_ONE)


@pytest.mark.parametrize("game", NOT_FOR_ONE)
def test_games_without_a_mode_for_one_player_are_refused_before_they_are_loaded(
    game: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (game, f"pong,{game}", f"{game},pong"):
        assert main(["train", "impala", name, "--runs-dir", str(tmp_path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{game} is for two players" in line
        remedy = line.split("train ")[1].split(" instead")[0]
    assert not list(tmp_path.iterdir())
    assert parse_environment(remedy, GameConfig()).spec.num_teams >= 2
    with pytest.raises(UserError) as refusal:
        parse_environment(f"{game}s", AtariConfig())
    assert f"'{game}'" not in str(refusal.value)


@pytest.mark.parametrize(("most", "resets"), [(0, 5), (1, 20), (4, 60)])
def test_no_ops_are_0_to_noop_max(most: int, resets: int) -> None:
    env = make_game("pong", 1, AtariConfig(noop_max=most), 1, full=False)
    env.reset(seed=np.array([0]))
    frames = [int(env.reset()[1]["episode_frame_number"][0]) for _ in range(resets)]
    assert sorted(set(frames)) == list(range(most + 1))


@pytest.mark.slow
def test_no_ops_of_300_seeds() -> None:
    env = make_game("pong", 1, AtariConfig(), 1, full=False)
    frames = {int(env.reset(seed=np.array([seed]))[1]["episode_frame_number"][0]) for seed in range(300)}
    assert frames == set(range(31))


@pytest.mark.parametrize(("game", "rows"), [("klax", 250), ("journey_escape", 230), ("pooyan", 220), ("carnival", 214)])
def test_films_show_the_whole_screen(game: str, rows: int) -> None:
    settings = AtariConfig(noop_max=0, max_pool=False)
    env = parse_environment(game, settings).make_for_video(0)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    rom = roms.get_rom_path(game)
    assert rom is not None
    ale.loadROM(rom)
    env.reset([0])
    for _ in range(20):
        env.step(np.array([0]))
        for _ in range(settings.frame_skip):
            ale.act(0)
    assert env.render().shape == (rows, 160, 3)
    assert np.array_equal(env.render(), ale.getScreenRGB())
    env.close()


@pytest.mark.parametrize(
    ("game", "steps"), [("amidar", 500), ("demon_attack", 400), ("atlantis", 600), ("bank_heist", 300)]
)
def test_lives_lost_are_falls_of_the_counter(game: str, steps: int) -> None:
    """Amidar says 0 lives at the reset and 11 afterwards, Demon Attack 1 and 4; the others play on with 0, or gain."""
    settings = AtariConfig(noop_max=0)
    env = parse_environment(game, settings).make([0, 0])
    twin = make_game(game, 2, settings, 2, full=False)
    entry = env.reset([0, 1])
    _, infos = twin.reset(seed=np.array([0, 1]))
    generator = np.random.default_rng(0)
    falls = gains = 0
    for _ in range(steps):
        actions = generator.integers(0, env.spec.action.choices[0], 2)
        begins, lives = entry.terminated | entry.truncated, infos["lives"]
        entry = env.step(actions)
        _, _, terminated, truncated, infos = twin.step(actions)
        went_on = ~begins & ~(terminated | truncated)
        fell = went_on & (infos["lives"] < lives)
        assert np.array_equal(entry.terminated, terminated)
        assert np.array_equal(entry.life_lost, fell)
        falls, gains = falls + int(fell.sum()), gains + int((went_on & (infos["lives"] > lives)).sum())
    assert falls >= 3
    if game in ("amidar", "demon_attack"):
        assert gains >= 2, "the counter rises after the reset"
    env.close()
