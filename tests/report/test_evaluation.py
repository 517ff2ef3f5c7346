"""Evaluation results are kept whole and shown with their aggregates."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from pydantic import ValidationError
from rich.console import Console

from machina.errors import UserError
from machina.report.evaluation import EvaluationResult, evaluation_table, latest_evaluation, load_evaluation
from machina.report.scores import human_normalized


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
    file = result().save(tmp_path / "report")
    assert load_evaluation(file) == result()
    result(step=20_000).save(tmp_path / "report")
    assert latest_evaluation(tmp_path / "report").step == 20_000


def test_missing_and_edited_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no evaluation; make one: machina eval"):
        latest_evaluation(tmp_path)
    with pytest.raises(UserError, match="can't be read"):
        load_evaluation(tmp_path / "none.json")
    file = result().save(tmp_path)
    file.write_text(file.read_text()[:-20])
    with pytest.raises(UserError, match="edited or truncated") as caught:
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
