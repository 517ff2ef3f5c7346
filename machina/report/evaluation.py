"""The result of an evaluation: the only place a score comes from."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from machina.checkpoint.files import write_or_refuse
from machina.checkpoint.typed import Count, Real, SavedFile, read_typed
from machina.errors import UserError
from machina.report.scores import Aggregate, Interval, aggregate, human_normalized

if TYPE_CHECKING:
    from rich.console import RenderableType


class EvaluationResult(SavedFile):
    """``report/evaluation-<step>.json``: episodes of one checkpoint under one protocol."""

    run: str = Field(description="Run directory.")
    step: Count = Field(description="Env steps of the evaluated checkpoint.")
    frames: Count = Field(description="Environment frames of the evaluated checkpoint.")
    protocol: dict[str, str | int | float | bool] = Field(description="How episodes were run.")
    seed: Count = Field(description="Seed of the evaluation's environments and actions.")
    episodes: dict[str, tuple[Real, ...]] = Field(description="Episode returns by task.")
    lengths: dict[str, tuple[Count, ...]] = Field(description="Episode lengths by task, in env steps.")

    @model_validator(mode="after")
    def _same_episodes(self) -> EvaluationResult:
        returns = {task: len(values) for task, values in self.episodes.items()}
        if returns != {task: len(values) for task, values in self.lengths.items()} or not all(returns.values()):
            raise ValueError("every task needs at least one episode and one length per return")
        return self

    @property
    def mean_returns(self) -> dict[str, float]:
        """Mean episode return by task."""
        return {task: statistics.fmean(values) for task, values in self.episodes.items()}

    @property
    def score(self) -> float:
        """One number to choose the best checkpoint by; larger is better.

        The mean return of a single task, the human-normalized median of Atari games; for several tasks without
        references the mean over tasks of the mean return.
        """
        means = self.mean_returns
        if len(means) > 1 and (total := self.aggregate()) is not None and total.games == len(means):
            return total.median.value
        return statistics.fmean(means.values())

    def aggregate(self) -> Aggregate | None:
        """Human-normalized aggregates over the Atari games among the tasks."""
        return aggregate(self.episodes, self.seed)

    def save(self, report: Path) -> Path:
        """Write ``report/evaluation-<step>.json``; an earlier one of this step is replaced.

        Raises:
            RunFailedError: the disk is full or refuses.
        """
        file = report / evaluation_file(self.step)
        write_or_refuse(file, self.model_dump_json(indent=1).encode(), "evaluation")
        return file


def load_evaluation(file: Path) -> EvaluationResult:
    """Read what ``save`` wrote.

    Raises:
        UserError: the file is missing or is no evaluation.
    """
    remedy = "make one with machina eval"
    try:
        result = read_typed(EvaluationResult, file, remedy)
    except FileNotFoundError as error:
        raise UserError(f"evaluation '{file}' can't be read: {error.strerror}; {remedy}") from error
    if file.name != evaluation_file(result.step):
        raise UserError(f"evaluation '{file}': step={result.step} belongs in {evaluation_file(result.step)}; {remedy}")
    return result


def evaluation_file(step: int) -> str:
    """The name of the file of the checkpoint at ``step``; names sort as steps do."""
    return f"evaluation-{step:012d}.json"


def latest_evaluation(report: Path) -> EvaluationResult:
    """The evaluation of the latest checkpoint among those in ``report``.

    Raises:
        UserError: there is none.
    """
    found = sorted(report.glob("evaluation-*.json"))
    if not found:
        raise UserError(f"'{report}' holds no evaluation; make one: machina eval {report.parent}")
    return load_evaluation(found[-1])


def evaluation_table(result: EvaluationResult) -> RenderableType:
    """Per task mean, standard deviation, best, length and human-normalized score; the aggregates below."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    title = Text(f"{result.run}, checkpoint at env step {result.step:,}")
    table = Table(box=None)
    table.add_column("task")
    for column in ("episodes", "mean return", "std", "best", "length", "human-normalized"):
        table.add_column(column, justify="right")
    for task, returns in result.episodes.items():
        average = statistics.fmean(returns)
        normalized = human_normalized(task, average)
        table.add_row(
            Text(task),
            str(len(returns)),
            f"{average:,.2f}",
            f"{statistics.pstdev(returns):,.2f}",
            f"{max(returns):,.2f}",
            f"{statistics.fmean(result.lengths[task]):,.0f}",
            "–" if normalized is None else f"{normalized:.1%}",
        )
    protocol = ", ".join(f"{name} {value}" for name, value in result.protocol.items())
    lines = [f"protocol: {protocol or 'as the environment comes'}; evaluation seed {result.seed}"]
    total = result.aggregate()
    if total is not None and total.games > 1:
        lines.insert(0, aggregate_line(total))
    return Group(title, table, *map(Text, lines))


def aggregate_line(total: Aggregate) -> str:
    """Median, mean and interquartile mean with their intervals."""

    def shown(name: str, interval: Interval) -> str:
        return f"{name} {interval.value:.1%} ({interval.low:.1%} to {interval.high:.1%})"

    if total.games == 1:
        return f"human-normalized: {total.median.value:.1%}, one run of one game"
    return (
        f"human-normalized over {total.games} games: {shown('median', total.median)}, {shown('mean', total.mean)}, "
        f"{shown('interquartile mean', total.interquartile_mean)}; 95 % bootstrap intervals over games, one run of each"
    )
