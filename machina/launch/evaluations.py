"""Evaluations while a run trains (`--eval-every`): one at a time, and the checkpoint that scored best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from machina.checkpoint import RunDirectory
from machina.errors import RunFailedError, UserError
from machina.launch.ending import Ending
from machina.launch.places import Evaluation, Place
from machina.metrics import TimeShares


class Evaluations:
    """Begins evaluations and takes in their scores.

    Args:
        place: plays them, in the caller's thread or elsewhere.
        run: where scores are written.
        notice: shows the user an event.
        ending: an evaluation is given up when the run ends.
        log: writes scores among the metrics.
        shares: where the time goes.
    """

    def __init__(
        self,
        place: Place,
        run: RunDirectory,
        notice: Callable[[str], None],
        ending: Ending,
        log: Callable[[dict[str, float]], None],
        shares: TimeShares,
    ) -> None:
        self._place = place
        self._run = run
        self._notice = notice
        self._ending = ending
        self._log = log
        self._shares = shares
        self._evaluation: Evaluation | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether one was begun whose scores are not there yet."""
        return self._evaluation is not None

    def begin(self, parameters: Any, env_steps: int) -> None:
        """Score these parameters; none may be under way."""
        self._evaluation = self._place.evaluate(parameters, env_steps, str(self._run.path), self._ending.is_due)
        self.collect()

    def collect(self) -> None:
        """Take in the scores, when they are there; the checkpoint that earned them may be the best one."""
        if self._evaluation is None:
            return
        try:
            with self._shares.measure("evaluating"):
                result = self._evaluation.result()
            if result is None:
                return
            self._evaluation = None
            result.save(self._run.report)
            self._log({f"eval/{task}": score for task, score in result.mean_returns.items()})
            best = self._run.best()
            if (best is None or result.score > best.score) and self._run.checkpoint_path(result.step).is_dir():
                self._run.mark_best(result.step, result.score)
            self._notice(f"evaluation at {result.step:,} env steps: {result.score:.4g}")
        except (RunFailedError, UserError) as error:
            self._evaluation = None
            self._notice(f"no evaluation: {error}" + ("" if self._ending.is_due() else "; the run continues"))
