"""What is shown of a league: tables, pictures, the page."""

from __future__ import annotations

import io
import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console, RenderableType

from machina.errors import UserError
from machina.league.table import (
    CrossTable,
    LeagueTable,
    MatchRow,
    league_tables,
    match_table,
    read_league,
)
from machina.report.league_plots import plot_cross_table, plot_met, plot_ratings
from machina.report.page import (
    Predictions,
    Section,
    film_lines,
    markdown_table,
    met_lines,
    prediction_line,
    ratings_lines,
    write_page,
)

ANCHORS = [
    {"name": "random", "mu": 0.0, "sigma": 0.0, "games": 400},
    {"name": "one_ply", "mu": 11.5, "sigma": 0.75, "games": 400},
]


def content(count: int, rated: int | None = None) -> dict[str, Any]:
    """``league.json`` of this many snapshots, each a point stronger than the one before; the later the more
    probable."""
    total = math.fsum(math.exp(0.1 * i) for i in range(count))
    snapshots = [
        {
            "name": f"u{100 * (i + 1):06d}",
            "updates": 100 * (i + 1),
            "env_steps": 1000 * (i + 1),
            "sha256": f"{i:064d}",
            "quality": 0.1 * i,
            "probability": math.exp(0.1 * i) / total,
            "wins": 3 * i,
            "losses": 2 * i,
            "draws": i,
        }
        for i in range(count)
    ]
    ratings = [
        {"name": each["name"], "mu": float(i + 1), "sigma": 1.5, "games": 40}
        for i, each in enumerate(snapshots[:rated])
    ]
    return {
        "pool_share": 0.2,
        "snapshots": snapshots,
        "ratings": sorted([*ratings, *ANCHORS], key=lambda row: -float(str(row["mu"]))),
        "games": {"self": 1234, "pool": 300},
    }


def league(count: int, rated: int | None = None) -> LeagueTable:
    return LeagueTable.model_validate(content(count, rated))


def printed(*renderables: RenderableType, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    for renderable in renderables:
        console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_read_league(tmp_path: Path) -> None:
    assert read_league(tmp_path) is None
    (tmp_path / "league").mkdir()
    file = tmp_path / "league" / "league.json"
    file.write_text(json.dumps(content(3)))
    assert read_league(tmp_path) == league(3)
    file.write_text(file.read_text()[:50])
    with pytest.raises(UserError, match=r"league.json' was edited or truncated"):
        read_league(tmp_path)


def test_the_best_and_the_fixed_players() -> None:
    rows = league(20).best(3)
    assert [row.name for row in rows] == ["u002000", "u001900", "u001800", "one_ply", "random"]
    assert [row.name for row in league(20).fixed_players] == ["one_ply", "random"]
    assert [row.name for row in league(20).most_probable(2)] == ["u002000", "u001900"]
    assert [snapshot.name for snapshot, _ in league(3, rated=2).climb] == ["u000100", "u000200"]


def test_status_shows_ratings_and_the_whole_pool() -> None:
    lines = printed(*league_tables(league(20)))
    assert lines[0].startswith("league: 20 snapshots; training games: 1,234 of the policy against itself, 300")
    assert "(19.6%, asked for 20.0%)" in " ".join(lines[:2])
    ratings = [line.split() for line in lines if re.match(r"u\d+ .*±|one_ply|random", line)]
    assert [row[0] for row in ratings] == [f"u{100 * i:06d}" for i in range(20, 12, -1)] + ["one_ply", "random"]
    assert ratings[0] == ["u002000", "20.0", "±", "3.0", "40"]
    assert ratings[-1] == ["random", "0.0", "400"], "held fixed"
    pool = [line.split() for line in lines if re.match(r"u\d+ .*/", line)]
    assert len(pool) == 20
    assert pool[-1] == ["u002000", "20,000", "1.900", "11.0%", "57", "/", "38", "/", "19"]


def test_match_table_takes_names_as_they_are() -> None:
    rows = [MatchRow("runs/[bold]x", False, 0.75, 0.41, 0.93, 7, 1, 2), MatchRow("as red", True, 1, 0.5, 1, 5, 0, 0)]
    lines = printed(match_table("battle, 10 games", rows))
    assert lines[0] == "battle, 10 games"
    assert lines[2].split() == ["runs/[bold]x", "10", "7", "1", "2", "75.0%", "41.0%", "to", "93.0%"]
    assert lines[3].startswith("  as red")


def test_match_table_marks_draws_of_a_limit() -> None:
    rows = [MatchRow("one", False, 0.5, 0.2, 0.8, 2, 6, 2, 5), MatchRow("other", False, 0.5, 0.2, 0.8, 2, 6, 2, 5)]
    lines = printed(match_table("battle, 10 games", rows))
    assert lines[2].split()[:7] == ["one", "10", "2", "6", "(5", "cut)", "2"]
    assert lines[-1].startswith("cut: a limit of steps ended the game")


def test_pictures_of_few_and_many(tmp_path: Path) -> None:
    for count in (1, 5, 120):
        found = league(count)
        assert png_size(plot_ratings(found, tmp_path / f"ratings-{count}.png", "a title")) == (1040, 585)
        width, height = png_size(plot_met(found, tmp_path / f"met-{count}.png", "a title"))
        assert 1040 <= width <= 1820
        assert height == 715


def test_pictures_of_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no snapshot has a rating yet"):
        plot_ratings(league(3, rated=0), tmp_path / "x.png", "a title")
    with pytest.raises(UserError, match="the pool is empty"):
        plot_met(league(0), tmp_path / "x.png", "a title")
    assert not list(tmp_path.iterdir())


def cross_table(count: int) -> CrossTable:
    """The earlier player always wins."""
    rates = tuple(tuple(None if i == j else float(i < j) for j in range(count)) for i in range(count))
    return CrossTable(tuple(f"p{i}" for i in range(count)), rates, ((2,) * count,) * count)


def test_heat_map_colours_say_who_wins(tmp_path: Path) -> None:
    path = plot_cross_table(cross_table(30), tmp_path / "cross.png", "a title")
    pixels = matplotlib.image.imread(path)[..., :3]
    height, width = pixels.shape[:2]
    blue = np.abs(pixels - np.array([0x00, 0x72, 0xB2]) / 255).sum(axis=-1) < 0.02
    orange = np.abs(pixels - np.array([0xD5, 0x5E, 0x00]) / 255).sum(axis=-1) < 0.02
    assert blue.sum() > 0.1 * height * width
    assert orange.sum() > 0.1 * height * width
    rows, columns = np.nonzero(blue)
    others, below = np.nonzero(orange)
    assert columns.mean() > below.mean(), "row wins against the columns to the right"
    assert rows.mean() < others.mean()


def test_heat_maps_grow_up_to_a_page(tmp_path: Path) -> None:
    sizes = [
        png_size(plot_cross_table(cross_table(count), tmp_path / f"{count}.png", "a title"))
        for count in (2, 12, 40, 90)
    ]
    assert sizes[0] < sizes[1] < sizes[2] == sizes[3]


def test_the_page_shows_what_it_is_given(tmp_path: Path) -> None:
    page = tmp_path / "report" / "report.md"
    film = tmp_path / "videos" / "x y.mp4"
    sections = [Section("Ratings", ratings_lines(league(20))), Section("Film", film_lines(film, page, "a draw"))]
    write_page(page, "a run", ["one fact", "another"], sections)
    blocks = page.read_text().split("\n\n")
    assert blocks[:3] == ["# a run", "- one fact\n- another", "## Ratings"]
    assert "20 rated snapshots: from 1.0 ± 3.0 (u000100) to 20.0 ± 3.0 (u002000), at most 20.0 ± 3.0" in blocks[3]
    assert blocks[4].splitlines()[:3] == [
        "| player | rating | rating games |",
        "| --- | ---: | ---: |",
        "| u002000 | 20.0 ± 3.0 | 40 |",
    ]
    assert blocks[-2:] == [
        '<video src="../videos/x y.mp4" controls width="480"></video>',
        "[x y.mp4](<../videos/x y.mp4>): a draw\n",
    ]


def test_lines_of_numbers() -> None:
    assert "Met most often: u002000 (114 games). Most probable now: u002000 (11.0%, 57 won" in met_lines(league(20))[0]
    line = prediction_line(Predictions(66, 0.0321, 0.0456, ("u2", "u1", 0.6, 0.75)))
    assert "over 66 pairs: mean difference 0.032 (chance alone would make about 0.046" in line
    assert line.endswith("worst 0.150: u2 against u1, predicted 60.0%, measured 75.0%.")
    assert markdown_table(("a|b", "c"), [("1", "2")]) == "| a\\|b | c |\n| --- | ---: |\n| 1 | 2 |"
