"""Evaluation results are kept whole and shown with their aggregates."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from machina.errors import UserError
from machina.report.evaluation import (
    EvaluationResult,
    aggregate_line,
    evaluation_table,
    latest_evaluation,
    load_evaluation,
)
from machina.report.scores import Aggregate, Interval, human_normalized


def result(step: int = 1000, **episodes: tuple[float, ...]) -> EvaluationResult:
    episodes = episodes or {"pong": (21.0, 19.0), "breakout": (30.5, 300.0, 2.0)}
    return EvaluationResult(
        run="runs/two-games",
        step=step,
        frames=4 * step,
        protocol={"sticky_actions": 0.0, "noop_max": 30},
        seed=7,
        episodes=episodes,
        lengths={task: tuple(100 for _ in values) for task, values in episodes.items()},
    )


def test_comes_back_exactly(tmp_path: Path) -> None:
    report = tmp_path / "run" / "report"
    file = result().save(report)
    assert load_evaluation(file) == result()
    for step in (20_000, 3000):
        result(step=step).save(report)
    assert latest_evaluation(report).step == 20_000
    assert file.read_text() == json.dumps(result().model_dump(), indent=1), "a number is a line"


def test_missing_and_edited_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no evaluation; make one: machina eval"):
        latest_evaluation(tmp_path)
    with pytest.raises(UserError, match=r"can't be read: No such file or directory; make one with machina eval$"):
        load_evaluation(tmp_path / "none.json")
    file = result().save(tmp_path)
    file.write_text(file.read_text()[:-20])
    with pytest.raises(UserError, match=r"edited or truncated.*make one with machina eval$") as caught:
        load_evaluation(file)
    assert "\n" not in str(caught.value)


def test_a_task_needs_episodes_and_a_length_for_each() -> None:
    with pytest.raises(ValidationError, match="at least one episode"):
        result(pong=())
    with pytest.raises(ValidationError, match="one length per return"):
        EvaluationResult(run="r", step=1, frames=4, protocol={}, seed=0, episodes={"a": (1.0,)}, lengths={"a": ()})


def test_score_chooses_what_the_task_is_judged_by() -> None:
    assert result(pong=(20.0, 10.0)).score == 15.0
    pong, breakout = human_normalized("pong", 20.0), human_normalized("breakout", 332.5 / 3)
    assert pong is not None
    assert breakout is not None
    assert result().score == pytest.approx((pong + breakout) / 2)
    assert result(catch=(1.0,), memory=(0.0,)).score == 0.5


def test_table_names_scores_protocol_and_aggregates() -> None:
    console = Console(width=110, file=io.StringIO(), record=True)
    console.print(evaluation_table(result(pong=(21.0, 19.0), breakout=(30.5,), catch=(1.0,))))
    text = console.export_text()
    for part in ("pong", "20.00", "1.00", "115.3%", "100.0%", "noop_max 30", "seed 7", "over 2 games", "interquartile"):
        assert part in text


def test_numbers_stand_below_one_another() -> None:
    games = result(pong=(21.0, 19.0), boxing=(12.1,))
    console = Console(width=250, file=io.StringIO(), record=True)
    console.print(evaluation_table(games))
    _, head, *rows, aggregates, protocol = [line.rstrip() for line in console.export_text().splitlines()]
    total = games.aggregate()
    assert total is not None
    assert aggregates == aggregate_line(total)
    assert protocol == "protocol: sticky_actions 0.0, noop_max 30; evaluation seed 7"
    for row, episodes in zip(rows, ("2", "1"), strict=True):
        assert len(row) == len(head)
        assert row.index(f" {episodes} ") == head.index("episodes ") + len("episode") - 1


def test_scores_of_skewed_returns() -> None:
    """A mean over episodes; the median over Atari games, the mean over tasks that have no reference."""
    assert result(pong=(1.0, 2.0, 9.0)).score == 4.0
    assert result(catch=(1.0, 2.0, 9.0), memory=(0.0,), recall=(2.0,)).score == 2.0
    games: dict[str, Any] = {"pong": (-20.0, -8.0, 10.0), "breakout": (1.7, 1.7, 31.7), "boxing": (120.0,)}
    normalized = [human_normalized(game, sum(returns) / len(returns)) for game, returns in games.items()]
    known = sorted(value for value in normalized if value is not None)
    assert known[2] > 5 > known[1] > known[0] > 0
    assert result(**games).score == known[1]
    mixed = result(catch=(1.0,), **games)
    assert mixed.score == pytest.approx((1.0 - 6.0 + 11.7 + 120.0) / 4), "not all of them have a reference"
    assert result().mean_returns == {"pong": 20.0, "breakout": pytest.approx(332.5 / 3)}


def test_every_column_of_the_table() -> None:
    skewed = EvaluationResult(
        run="runs/one",
        step=1_234_567,
        frames=4,
        protocol={},
        seed=7,
        episodes={"catch": (1.0, 2.0, 9.0, -2000.0)},
        lengths={"catch": (10, 10, 10, 2000)},
    )
    console = Console(width=110, file=io.StringIO(), record=True)
    console.print(evaluation_table(skewed))
    lines = console.export_text().splitlines()
    assert len(lines[1].rstrip()) > len(lines[0].rstrip()), "it could stand in the middle"
    assert lines[0].startswith("runs/one")
    title, head, row, *rest = [line.strip() for line in lines]
    assert title == "runs/one, checkpoint at env step 1,234,567"
    columns = [cell.strip() for cell in head.split("  ") if cell.strip()]
    assert columns == ["task", "episodes", "mean return", "std", "best", "length", "human-normalized"]
    assert row.split() == ["catch", "4", "-497.00", "867.76", "9.00", "508", "–"]
    assert rest == ["protocol: as the environment comes; evaluation seed 7"]
    console.print(evaluation_table(result(pong=(21.0, 19.0))))
    assert "one run of one game" not in console.export_text(), "there is nothing to aggregate"
    console.print(evaluation_table(result(pong=(21.0, 19.0), boxing=(12.1,))))
    cells = {line.split()[0]: line.split()[-1] for line in console.export_text().splitlines() if line.strip()}
    for game, average in (("pong", 20.0), ("boxing", 12.1)):
        normalized = human_normalized(game, average)
        assert normalized is not None
        assert cells[game] == f"{normalized:.1%}"


def test_the_aggregates_are_named() -> None:
    total = Aggregate(3, Interval(0.5, 0.25, 1.0), Interval(2.0, 1.5, 12.3456), Interval(0.75, 0.0, -0.125))
    assert aggregate_line(total) == (
        "human-normalized over 3 games: median 50.0% (25.0% to 100.0%), mean 200.0% (150.0% to 1234.6%), "
        "interquartile mean 75.0% (0.0% to -12.5%); 95 % bootstrap intervals over games, one run of each"
    )


def test_every_field_is_needed_and_bounded() -> None:
    whole = result().model_dump()
    for field in whole:
        with pytest.raises(ValidationError, match=field):
            EvaluationResult.model_validate({key: value for key, value in whole.items() if key != field})
    for field in ("step", "frames", "seed"):
        assert EvaluationResult.model_validate(whole | {field: 0})
        with pytest.raises(ValidationError, match=field):
            EvaluationResult.model_validate(whole | {field: -1})


def test_intervals_are_equal_for_equal_seeds_and_one_run_is_called_so() -> None:
    """With one run of each game there is nothing to say of the spread over runs; a width of 0 would."""
    names = ("pong", "breakout", "seaquest", "asterix", "boxing", "qbert", "krull", "tennis", "gopher")
    games: dict[str, tuple[float, ...]] = {name: (10.0 * number,) for number, name in enumerate(names)}
    first, again = result(1, **games).aggregate(), result(1, **games).aggregate()
    assert first is not None
    assert first == again
    assert first.mean.low < first.mean.value < first.mean.high
    other = result(1, **games).model_copy(update={"seed": 8}).aggregate()
    assert other is not None
    assert other.mean != first.mean
    assert aggregate_line(first).endswith("bootstrap intervals over games, one run of each")
    single = result(pong=(21.0,)).aggregate()
    assert single is not None
    assert aggregate_line(single) == "human-normalized: 118.1%, one run of one game"
