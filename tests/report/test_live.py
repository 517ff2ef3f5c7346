"""The live view at several terminal sizes, and the lines it prints without a terminal."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from machina.league.table import LeagueTable, RatingRow, SnapshotRow, TrainingGames
from machina.report.live import LiveView, StartupProgress
from machina.report.scores import human_normalized, score_table
from machina.report.screen import (
    RunFacts,
    RunMoment,
    TaskRow,
    duration,
    league_lines,
    number,
    plain_line,
    render,
    task_lines,
)

FACTS = RunFacts(
    name="atari57-1",
    algorithm="impala_popart",
    environment="atari57",
    protocol="no sticky actions, up to 30 no-ops, zero discount on life loss, 108,000-frame cap, 4 frames per step",
    network="deep: observation 4x84x84 (CHW, divided by 255)",
    rewards="clipped to [-1, 1]",
    machine="2 cores, bfloat16, 1 actor with 228 environments",
    goal="11.4G frames",
)


def rows(count: int) -> list[TaskRow]:
    generator = np.random.default_rng(count)
    result = []
    for game, row in list(score_table().items())[:count]:
        value = row["random"] + (row["human"] - row["random"]) * float(generator.lognormal(0, 3))
        played = generator.random() < 0.8
        normalized = human_normalized(game, value) if played else None
        result.append(
            TaskRow(game, 100 * played, value if played else None, normalized, float(generator.lognormal(0, 5)))
        )
    return result


def moment(tasks: list[TaskRow], elapsed_s: float = 80.0) -> RunMoment:
    return RunMoment(
        env_steps=123_456,
        frames=493_824,
        total_frames=11_400_000_000,
        elapsed_s=elapsed_s,
        env_steps_per_s=1540.4,
        frames_per_s=6161.6,
        updates=192,
        updates_per_s=8.12,
        policy_lag_mean=1.4,
        policy_lag_max=5,
        shares={"env": 0.5, "acting": 0.2, "learning": 0.25, "waiting": 0.05},
        ceiling=0.84,
        done=0.25,
        eta_s=3720,
        checkpoint=Path("runs/atari57-1/checkpoints/000000120000"),
        faults="1 environment replaced",
        tasks=tasks,
    )


@pytest.mark.parametrize("tasks", [1, 2, 6, 57])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50), (120, 40), (40, 12), (80, 6)])
def test_never_wider_or_higher_than_the_terminal(width: int, height: int, tasks: int) -> None:
    notices = ["pong did not answer in 60 s:\nTraceback [red]" + "x" * 300]
    picture = render(FACTS, moment(rows(tasks)), notices, width, height)
    console = Console(width=width, height=height, record=True, file=io.StringIO())
    console.print(picture)
    lines = console.export_text().rstrip("\n").split("\n")
    assert len(lines) <= height
    assert max(len(line) for line in lines) <= width


def test_everything_shows_on_a_large_terminal() -> None:
    text = render(FACTS, moment(rows(57)), [], 200, 50).plain
    for game in score_table():
        assert game in text
    for part in ("84% of this machine's limit", "policy lag 1.4 (max 5)", "env 50%", "eta 1h02m", "000000120000"):
        assert part in text
    for part in ("return", "human", "episodes", "sigma", "1 environment replaced"):
        assert part in text
    unknown = render(FACTS, moment(rows(1))._replace(ceiling=None), [], 80, 24).plain
    assert "limit unknown: machina doctor" in unknown


@pytest.mark.parametrize("algorithm", ["ppo", "impala_popart (configuration 'impala_popart_atari57')"])
@pytest.mark.parametrize("name", ["a", "runs/impala_popart_atari57_20261130-141246"])
def test_a_terminal_of_80_columns_shows_clock_name_and_one_unit(name: str, algorithm: str) -> None:
    facts = FACTS._replace(
        name=name, algorithm=algorithm, environment="atari57, 57 tasks, 228 environments, place local"
    )
    late = moment(rows(57), 3 * 3600 + 25 * 60 + 7.9)
    console = Console(width=80, height=24, record=True, file=io.StringIO())
    console.print(render(facts, late, ["evaluation at 12,000,000 env steps: 0.43"], 80, 23))
    text = console.export_text()
    lines = text.rstrip("\n").split("\n")
    assert len(lines) <= 23
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert lines[0].startswith(f"{algorithm} on atari57")
    assert lines[0].endswith("  03:25:07")
    assert name in text
    assert f"{name}…" not in text
    (progress,) = [line for line in lines if line.startswith("progress")]
    assert progress.endswith("25.00% · 493,824 of 11,400,000,000 frames · eta 1h02m"), "in the unit of the goal"
    for whole in ("6,162 frames/s · 84% of this machine's limit", "policy lag 1.4 (max 5)", "learning 25% waiting 5%"):
        assert whole in text


def league(snapshots: int) -> LeagueTable:
    """Each is a point stronger and a percent more probable than the one before; none is rated yet but the first six."""
    made = [
        SnapshotRow(
            name=f"u{updates:06d}",
            updates=updates,
            env_steps=updates,
            sha256="0" * 64,
            quality=0,
            probability=updates / 100,
            wins=1,
            losses=2,
            draws=3,
        )
        for updates in range(1, snapshots + 1)
    ]
    ratings = [RatingRow(name=row.name, mu=row.updates, sigma=0.75, games=8) for row in made[5::-1]]
    anchor = RatingRow(name="random", mu=0, sigma=0, games=8)
    games = TrainingGames.model_validate({"self": 1234, "pool": 56})
    return LeagueTable(pool_share=0.2, snapshots=tuple(made), ratings=(*ratings, anchor), games=games)


def test_a_league_shows_its_best_and_whom_it_offers_most() -> None:
    ratings, pool = (line.plain.split(None, 1)[1] for line in league_lines(league(7)))
    assert ratings == ", ".join(f"u00000{n} {n}.0 ± 1.5" for n in (6, 5, 4, 3, 2))
    assert pool == (
        "7 snapshots; 1,234 games against itself, 56 against them; "
        "next: u000007 7%, u000006 6%, u000005 5%, u000004 4%, u000003 3%"
    )
    ratings, pool = (line.plain.split(None, 1)[1] for line in league_lines(league(0)))
    assert (ratings, pool) == ("random 0.0", "0 snapshots; 1,234 games against itself, 56 against them")
    shown = render(FACTS, moment(rows(1))._replace(league=league(7)), [], 200, 50).plain
    assert "u000006 6.0 ± 1.5" in shown
    assert "next: u000007 7%" in shown


def test_only_labels_are_dim() -> None:
    file = io.StringIO()
    Console(width=200, height=50, file=file, force_terminal=True, _environ={"TERM": "xterm"}).print(
        render(FACTS, moment(rows(3)), [], 200, 50)
    )
    assert "\x1b[2mspeed      \x1b[0m1,540 env steps/s" in file.getvalue()


def test_pages_show_every_game_on_a_small_terminal() -> None:
    seen = "".join(render(FACTS, moment(rows(57), 6.0 * page), [], 80, 24).plain for page in range(12))
    for game in score_table():
        assert game in seen


def test_a_task_without_an_episode_has_a_dash() -> None:
    lines = [line.plain for line in task_lines([TaskRow("catch", 0, None), TaskRow("memory", 3, 0.5)], 80, None)]
    assert "–" in "".join(line for line in lines if "catch" in line)
    assert "0.50" in "".join(line for line in lines if "memory" in line)


def test_plain_lines() -> None:
    one = plain_line(moment([TaskRow("pong", 10, 12.34)]))
    assert one == (
        "00:01:20  env steps 123,456 (25.00%)  1,540/s  updates 8.1/s  lag 1.4  return 12.34 (pong)  eta 1h02m"
    )
    assert "human-normalized median" in plain_line(moment(rows(57)))
    assert "no episode has ended" in plain_line(moment([TaskRow("pong", 0, None)]))


def test_without_a_terminal_lines_are_rare_and_final_says_what_next() -> None:
    console = Console(width=100, file=io.StringIO(), record=True)
    tasks = rows(57)
    with LiveView(FACTS, console) as view:
        for step in range(50):
            view.update(moment(tasks)._replace(env_steps=step))
        view.notice("replaced: [pong]")
        view.final(Path("runs/atari57-1"), "3 minutes are over", tasks)
    text = console.export_text()
    lines = text.splitlines()
    assert sum("env steps" in line for line in lines) == 2
    assert "env steps 49" in text
    assert "replaced: [pong]" in lines
    assert "–" in text
    for command in ("resume", "eval", "watch", "plot"):
        assert f"machina {command} runs/atari57-1" in text
    for game in score_table():
        assert game in text


def test_on_a_terminal_it_redraws_and_gives_the_terminal_back() -> None:
    file = io.StringIO()
    console = Console(width=80, height=24, file=file, force_terminal=True, _environ={"TERM": "xterm"})
    with LiveView(FACTS, console) as view:
        view.update(moment(rows(57)))
        view.update(moment(rows(57)))
        view.notice("best evaluation so far: 3.5")
    text = file.getvalue()
    assert "best evaluation so far: 3.5" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1


def test_startup_lines() -> None:
    console = Console(width=100, file=io.StringIO(), record=True)
    with StartupProgress(console) as startup:
        for done in range(229):
            startup.show("starting environments", done, 228)
        startup.show("first update")
    lines = console.export_text().splitlines()
    assert lines == ["starting environments 0/228", "starting environments 228/228", "first update"]


def test_numbers_fit_and_read_well() -> None:
    assert [number(value) for value in (None, 0.5, -20.7, 1234.5, 999_995.1, 12_345_678.0, 2.85e9)] == [
        "–",
        "0.50",
        "-20.70",
        "1,234.5",
        "999,995",
        "12.3M",
        "2.9G",
    ]
    for exponent in range(-5, 30):
        assert len(number(-(10.0**exponent) * 9.9999)) <= 8
    assert [duration(value) for value in (5, 65, 3725, 100_000)] == ["5s", "1m", "1h02m", "1d03h"]
