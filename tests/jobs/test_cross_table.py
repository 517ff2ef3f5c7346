"""Every snapshot against every other: nothing is played twice, nothing is missing."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from leagues import SNAPSHOTS, small_league

import machina
from machina.jobs.cross_table import cross_play, evenly_spread
from machina.jobs.match import RunPlayers
from machina.jobs.report import predicted_against_measured
from machina.league.ratings import BETA
from machina.league.table import CrossTable, LeagueTable, SnapshotRow


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_league(tmp_path_factory.mktemp("runs"), "league")


def chosen(players: RunPlayers, most: int) -> list[SnapshotRow]:
    assert players.league is not None
    return evenly_spread(players.league.snapshots, most)


def test_only_what_is_missing_is_played(league: Path, tmp_path: Path) -> None:
    players, file = RunPlayers(league), tmp_path / "report" / "cross_table.json"
    told: list[tuple[int, int]] = []

    def play(most: int, games: int) -> CrossTable:
        told.clear()
        return cross_play(players, chosen(players, most), games, 0, file, lambda *counts: told.append(counts))

    table = play(2, 4)
    assert table.names == ("random", "one_ply", SNAPSHOTS[0], SNAPSHOTS[-1])
    assert told[-1] == (24, 24), "6 pairs"
    assert [count for count, _ in told] == list(range(1, 25))
    assert all(table.games[i][j] == (4 if i != j else 0) for i in range(4) for j in range(4))
    for i, row in enumerate(table.win_rates):
        for j, rate in enumerate(row):
            other = table.win_rates[j][i]
            assert (rate is None) == (i == j)
            assert rate is None or other is None or rate + other == 1
    assert table.win_rates[1][0] == 1, "one_ply beats random"
    before = file.read_bytes()
    assert play(2, 4) == table
    assert told == []
    assert file.read_bytes() == before
    assert {count for row in play(2, 6).games for count in row} == {0, 6}
    assert told[-1] == (12, 12), "two more of each pair"
    more = play(3, 4)
    assert told[-1] == (16, 16), "the new snapshot against the other four"
    assert more.names[-2] == SNAPSHOTS[2]
    assert more.games[0][1] == 6, "what was played counts"


def test_a_snapshot_made_again_plays_again(league: Path, tmp_path: Path) -> None:
    players, file = RunPlayers(league), tmp_path / "cross_table.json"
    cross_play(players, chosen(players, 1), 2, 0, file)
    content = json.loads(file.read_text())
    assert [[name for name, _ in pair["players"]] for pair in content["pairs"]] == [
        ["random", "one_ply"],
        ["random", SNAPSHOTS[-1]],
        ["one_ply", SNAPSHOTS[-1]],
    ]
    for pair in content["pairs"]:
        if pair["players"][1][1]:
            pair["players"][1][1] = "0" * 64
    file.write_text(json.dumps(content))
    told: list[tuple[int, int]] = []
    cross_play(players, chosen(players, 1), 2, 0, file, lambda *counts: told.append(counts))
    assert told[-1] == (4, 4)


def test_a_damaged_file_is_refused(league: Path, tmp_path: Path) -> None:
    file = tmp_path / "cross_table.json"
    file.write_text('{"pairs": [{"half"')
    players = RunPlayers(league)
    with pytest.raises(
        machina.UserError, match=r"cross_table.json' was edited or truncated: .*; remove it to play again"
    ):
        cross_play(players, chosen(players, 1), 2, 0, file)


def test_a_damaged_snapshot_ends_it_and_the_rest_is_kept(league: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(league, tmp_path / "copy")
    next((copy / "league" / "snapshots").glob(f"{SNAPSHOTS[-1]}-*")).unlink()
    players, file = RunPlayers(copy), tmp_path / "cross_table.json"
    with pytest.raises(machina.UserError, match="can't be read"):
        cross_play(players, chosen(players, 1), 2, 0, file)
    assert len(json.loads(file.read_text())["pairs"]) == 1, "random against one_ply"


@pytest.mark.parametrize(
    ("most", "places"), [(1, [8]), (2, [0, 8]), (3, [0, 4, 8]), (9, list(range(9))), (20, list(range(9)))]
)
def test_evenly_spread(most: int, places: list[int]) -> None:
    rows = [row(f"u{place:06d}") for place in range(9)]
    assert evenly_spread(rows, most) == [rows[place] for place in places]


def row(name: str) -> SnapshotRow:
    return SnapshotRow(
        name=name, updates=1, env_steps=1, sha256="0" * 64, quality=0, probability=0.1, wins=0, losses=0, draws=0
    )


def test_predictions_against_what_was_measured() -> None:
    """Players apart by 0 and by sqrt(2) beta, where Phi is 0.5 and 0.8413."""
    mu = {"a": 0.0, "b": 0.0, "c": math.sqrt(2) * BETA}
    table = CrossTable(
        names=("a", "b", "c", "unrated"),
        win_rates=((None, 0.6, 0.0, 0.5), (0.4, None, None, 0.5), (1.0, None, None, 0.5), (0.5, 0.5, 0.5, None)),
        games=((0, 10, 40, 9), (10, 0, 0, 9), (40, 0, 0, 9), (9, 9, 9, 0)),
    )
    league = LeagueTable.model_validate(
        {
            "pool_share": 0.2,
            "snapshots": [],
            "ratings": [{"name": name, "mu": value, "sigma": 1, "games": 10} for name, value in mu.items()],
            "games": {"self": 0, "pool": 0},
        }
    )
    found = predicted_against_measured(league, table)
    assert found is not None
    phi = 0.841344746
    assert found.pairs == 2
    assert found.mean_difference == pytest.approx((0.1 + (1 - phi)) / 2)
    chance = math.sqrt(2 / math.pi) * (math.sqrt(0.25 / 10) + math.sqrt(phi * (1 - phi) / 40)) / 2
    assert found.by_chance == pytest.approx(chance)
    a, b, predicted, measured = found.worst
    assert (a, b, measured) == ("c", "a", 1.0)
    assert predicted == pytest.approx(phi)
    assert predicted_against_measured(league.model_copy(update={"ratings": ()}), table) is None
