"""The Ray cluster of a run: joined or started, sized, and what runs there beside actors and learner."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import ray

from machina.errors import RunFailedError, UserError
from machina.report.evaluation import EvaluationResult

EVALUATOR_NICENESS = 10
"""The evaluator takes what the learner and the actors leave of its machine."""


class RemoteEvaluation:
    """Implements ``machina.launch.places.Evaluation`` with a process of the cluster.

    Args:
        prepare: makes that process like this one.
        play: evaluates a flat parameter vector.
        parameters: reference to it.
        stop: asked whether to give up.
    """

    def __init__(
        self,
        prepare: Callable[[], None],
        play: Callable[[Any], EvaluationResult],
        parameters: Any,
        stop: Callable[[], bool],
    ) -> None:
        self._stop = stop
        # No CPU of its own: a cluster whose CPUs are all taken by actors must evaluate as well.
        remote = ray.remote(num_cpus=0, max_retries=1)(_evaluate)
        self._result = remote.remote(prepare, play, parameters)

    def result(self) -> EvaluationResult | None:
        """The scores, or None as long as it plays."""
        if self._stop():
            ray.cancel(self._result, force=True)
            raise RunFailedError("evaluation stopped before its end; it has no score")
        ready, _ = ray.wait([self._result], timeout=0)
        if not ready:
            return None
        try:
            result: EvaluationResult = ray.get(ready[0])
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError | RunFailedError):
                raise error.cause from None
            raise RunFailedError(f"the evaluator raised {type(error.cause).__name__}: {error.cause}") from error
        except ray.exceptions.RayError as error:
            raise RunFailedError(f"the evaluator died ({type(error).__name__})") from error
        return result


def _evaluate(prepare: Callable[[], None], play: Callable[[Any], EvaluationResult], flat: Any) -> EvaluationResult:
    os.nice(EVALUATOR_NICENESS)
    prepare()
    return play(flat)


class OpenCluster:
    def __init__(self, config, parts):
        os.environ.setdefault("RAY_worker_niceness", "0")
        ray.init(
            address=config.runtime.address,
            num_cpus=None if config.runtime.address else 2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
        self.actors = 2 if config.runtime.actors == "auto" else config.runtime.actors

    prepare = staticmethod(int)

    def nodes(self):
        return [
            {"name": n["NodeManagerAddress"], "cpus": n["Resources"].get("CPU", 0), "gpus": 0}
            for n in ray.nodes()
            if n["Alive"]
        ]

    def close(self):
        ray.shutdown()


def open_cluster(config, parts):
    return OpenCluster(config, parts)
