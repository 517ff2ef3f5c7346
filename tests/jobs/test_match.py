"""Matches between players by their names, on real runs of Connect Four."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from leagues import SNAPSHOTS, small_league

import machina
from machina.config import LeagueConfig
from machina.envs.config import GameConfig
from machina.envs.games.table import game_factory
from machina.jobs.match import (
    RunPlayers,
    lineup,
    match_rows,
    parse_player,
    scripted_players,
    team_labels,
)
from machina.launch.configuration import saved_config
from machina.launch.plan import plan_run
from machina.league.pool import Snapshot
from machina.league.snapshots import SnapshotStore
from machina.play.matches import MatchResult, Player
from machina.types import ACTION_MASK, NO_ACTION, OBSERVATION, ActorInput, Array, CoreState

NUM_BOARDS = 400


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_league(tmp_path_factory.mktemp("runs"), "first")


def edited(run: Path, folder: Path, name: str, old: str, new: str) -> Path:
    """A copy of a run with another configuration."""
    copy = shutil.copytree(run, folder / name)
    text = (copy / "config.yaml").read_text()
    assert old in text
    (copy / "config.yaml").write_text(text.replace(old, new))
    return copy


def answers(act: Callable[[ActorInput], tuple[Any, ...]], core_state: CoreState) -> Array:
    """What a player or a policy does on empty boards, one random number each."""
    observation = {
        OBSERVATION: np.zeros((NUM_BOARDS, 6, 7, 2), np.int8),
        ACTION_MASK: np.ones((NUM_BOARDS, 7), np.bool_),
    }
    inputs = ActorInput(
        observation,
        np.zeros(NUM_BOARDS, np.float32),
        np.full(NUM_BOARDS, NO_ACTION),
        np.ones(NUM_BOARDS, np.bool_),
        np.zeros(NUM_BOARDS, np.int64),
        core_state,
        np.random.default_rng(0).random(NUM_BOARDS, np.float32),
        np.arange(NUM_BOARDS),
    )
    action: Array = act(inputs)[0]
    return action


def moves(player: Player) -> Array:
    """``answers`` of a player."""
    return answers(player.act, player.initial_core_state(NUM_BOARDS))


def test_a_run_offers_its_checkpoints_and_its_snapshots(league: Path) -> None:
    players = RunPlayers(league)
    config = saved_config(league)
    store = SnapshotStore(league / "league" / "snapshots")
    seen = []
    assert players.league is not None
    assert tuple(row.name for row in players.league.snapshots) == SNAPSHOTS
    for row in players.league.snapshots:
        entrant = players.entrant(row.name)
        assert entrant.env_steps == row.env_steps
        assert entrant.player.name == f"{league}@{row.name}"
        policy = plan_run(config).make_policy(explores=False)
        policy.load_parameters(store.load(Snapshot(row.name, row.updates, row.env_steps, row.sha256)), done=1.0)
        seen.append(answers(policy.act, policy.initial_core_state(NUM_BOARDS)))
        np.testing.assert_array_equal(moves(entrant.player), seen[-1])
    assert all(not np.array_equal(a, b) for a, b in itertools.pairwise(seen)), "snapshots differ"
    latest = players.entrant()
    assert (latest.env_steps, latest.player.name) == (2560, f"{league} at 2560")
    # The last snapshot was made by the last update, as was the last checkpoint.
    np.testing.assert_array_equal(moves(latest.player), seen[-1])


def player(text: str, game: str | None = None) -> Player:
    return lineup([parse_player(text)], game).entrants[0].player


def test_scripted_players_by_name(league: Path) -> None:
    assert moves(player("random", "connect_four")).std() > 1
    np.testing.assert_array_equal(moves(player("random", "connect_four")), moves(player(f"{league}@random")))
    assert player(f"{league}@one_ply").name == "one_ply"


def test_every_game_has_random_play() -> None:
    assert list(scripted_players(game_factory("connect_four", GameConfig()).spec)) == ["random", "one_ply"]
    spec = game_factory("pettingzoo.classic.tictactoe_v3", GameConfig(teams="agents")).spec
    assert list(scripted_players(spec)) == ["random"]
    result = machina.match(["random", "one_ply"], games=60, seed=0, game="connect_four")
    assert result.win_rate("one_ply").low > 0.7


def test_a_match_is_repeatable_and_fair(league: Path) -> None:
    names = [f"{league}@{SNAPSHOTS[0]}", str(league)]
    told: list[tuple[int, int]] = []
    result = machina.match(names, games=10, seed=3, progress=lambda *counts: told.append(counts))
    assert told[-1] == (10, 10)
    assert len(told) == 10
    assert machina.match(names, games=10, seed=3) == result
    assert machina.match(names, games=10, seed=4).games != result.games
    assert [result.games_by_team(name) for name in result.players] == [(5, 5), (5, 5)]
    chosen = lineup([parse_player(name) for name in names])
    rows = match_rows(result, chosen.factory.spec)
    assert [row.label for row in rows] == [
        *(names[0], "as player_0", "as player_1"),
        *(f"{names[1]} at 2560", "as player_0", "as player_1"),
    ]
    for whole, *parts in (rows[:3], rows[3:]):
        assert whole.wins == sum(part.wins for part in parts)
        assert whole.losses == sum(part.losses for part in parts)
        assert whole.wins + whole.draws + whole.losses == 10
    assert (rows[0].wins, rows[0].losses) == (rows[3].losses, rows[3].wins)
    file = chosen.save(result)
    assert file == league / "report" / f"match-first-{SNAPSHOTS[0]}-vs-first-at-2560-10games-seed3.json"
    assert MatchResult.model_validate_json(file.read_bytes()) == result


def test_a_match_without_a_run_is_not_kept() -> None:
    chosen = lineup([parse_player("random"), parse_player("one_ply")], "connect_four")
    assert chosen.save(chosen.play(2, 0)) is None


def test_the_first_run_sets_the_options_of_the_game(league: Path, tmp_path: Path) -> None:
    short = small_league(
        tmp_path, "short", max_steps=4, snapshot_updates=None, rating_games=LeagueConfig().rating_games
    )
    assert {game.length for game in machina.match([str(short), str(league)], games=4, seed=0).games} == {4}
    assert min(game.length for game in machina.match([str(league), str(short)], games=4, seed=0).games) > 4


def test_players_of_different_games_or_teams(league: Path, tmp_path: Path) -> None:
    tictactoe = small_league(
        tmp_path,
        "ttt",
        "pettingzoo.classic.tictactoe_v3",
        teams="agents",
        total_frames=256,
        snapshot_updates=None,
        rating_games=LeagueConfig().rating_games,
    )
    with pytest.raises(machina.UserError) as caught:
        machina.match([str(league), str(tictactoe)], games=2, seed=0)
    assert str(caught.value) == (
        f"run '{league}' plays connect_four, run '{tictactoe}' plays pettingzoo.classic.tictactoe_v3; a match is of "
        "one game"
    )
    others = edited(tictactoe, tmp_path, "names", "teams: agents", "teams: names")
    with pytest.raises(machina.UserError, match="with other observations, actions or teams"):
        machina.match([str(tictactoe), str(others)], games=2, seed=0)
    assert len(machina.match([str(tictactoe), f"{tictactoe}@random"], games=2, seed=0).games) == 2
    with pytest.raises(machina.UserError, match="is not a league and has no snapshot 'u000009'; it has random"):
        machina.match([f"{tictactoe}@u000009", "random"], games=2, seed=0)


@pytest.mark.parametrize(
    ("names", "game", "expected"),
    [
        (["RUN", "randm"], None, "player 'randm' is neither a run nor a scripted player; did you mean 'random'?"),
        (["RUN", "RUN"], None, "names must differ"),
        (["RUN"], None, "'connect_four' has 2 teams, name one player each"),
        (["RUN", "chase"], None, "connect_four has no scripted player 'chase'; it has random, one_ply"),
        (["RUN@u00004", "random"], None, "no snapshot 'u00004' among its 5; did you mean 'u000004'"),
        (["RUN@", "random"], None, "name it RUN, RUN@best, RUN@SNAPSHOT, random, one_ply"),
        (["RUN@best", "random"], None, "has no best checkpoint"),
        (["nowhere@u000002", "random"], None, "run directory 'nowhere' does not exist"),
        (["random", "one_ply"], None, "no run among them says which game; give --game"),
        (["random", "one_ply"], "conect_four", "unknown environment 'conect_four'; did you mean 'connect_four'?"),
        (["random", "one_ply"], "CartPole-v1", "CartPole-v1 has no scripted player 'one_ply'; it has random"),
        (["RUN", "random"], "battle", "plays connect_four, --game battle plays battle; a match is of one game"),
    ],
)
def test_refusals(names: list[str], game: str | None, expected: str, league: Path) -> None:
    with pytest.raises(machina.UserError) as caught:
        machina.match([name.replace("RUN", str(league)) for name in names], games=2, seed=0, game=game)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_snapshot_is_refused(league: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(league, tmp_path / "copy")
    file = next((copy / "league" / "snapshots").glob(f"{SNAPSHOTS[1]}-*"))
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(machina.UserError, match="its parameters are not those that were saved"):
        player(f"{copy}@{SNAPSHOTS[1]}")
    player(f"{copy}@{SNAPSHOTS[0]}")


@pytest.mark.parametrize(
    ("game", "labels"), [("connect_four", ["player_0", "player_1"]), ("simple_tag", ["adversary_0–2", "agent_0"])]
)
def test_teams_are_named_by_their_agents(game: str, labels: list[str]) -> None:
    assert team_labels(game_factory(game, GameConfig()).spec) == labels


def test_teams_of_several_names_are_given_name_by_name() -> None:
    spec = game_factory("magent2.environments.combined_arms_v6", GameConfig(teams="red*,blue*")).spec
    assert team_labels(spec) == ["redmelee_0–44, redranged_0–35", "bluemelee_0–44, blueranged_0–35"]
