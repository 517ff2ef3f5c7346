"""The Ray cluster of a run: joined or started, sized, and what runs there in addition to actors and learner."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import ray

from machina.checkpoint.status import NodeStatus
from machina.cluster.actor_group import node_name
from machina.cluster.cluster import Cluster, connect, gpus_per_learner
from machina.errors import RunFailedError, UserError
from machina.launch.configuration import AnyRunConfig
from machina.launch.name_tables import modules_of, name_tables
from machina.launch.user_modules import user_modules
from machina.report.evaluation import EvaluationResult

EVALUATOR_NICENESS = 10
"""The evaluator takes what the learner and the actors leave of its machine."""

EVALUATION_TIMEOUT_S = 3600.0
"""How long an evaluation may take; 57 games of 10 episodes need half of it on one core."""


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
        self._deadline = time.monotonic() + EVALUATION_TIMEOUT_S
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
            if time.monotonic() < self._deadline:
                return None
            ray.cancel(self._result, force=True)
            raise RunFailedError(f"the evaluator gave no scores for {EVALUATION_TIMEOUT_S:g} s")
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


class OpenCluster(NamedTuple):
    """A cluster that the run is connected to, and what of it is the run's."""

    cluster: Cluster
    actors: int
    """At the start."""
    gpus_per_learner: int
    prepare: Callable[[], None]
    """Makes another process like this one; call it there first."""

    def nodes(self) -> list[NodeStatus]:
        """The living nodes, for `machina status`.

        Raises:
            RunFailedError: the cluster's head is gone.
        """
        living = [node for node in self.cluster.nodes() if node.alive]
        return [NodeStatus(node_name(node.address, node.id), node.cpus, node.gpus) for node in living]


def open_cluster(config: AnyRunConfig, cores: int) -> OpenCluster:
    """Start or join the cluster of a run.

    Raises:
        UserError: it can't be joined, or has no room for the run.
        RunFailedError: Ray does not start here.
    """
    runtime = config.runtime
    tables = name_tables(config)
    cluster = connect(runtime.address, cores, user_modules(modules_of(config, tables)))
    if not cluster.authenticated:
        print(
            f"machina: the Ray cluster at {cluster.address} asks for no token: anyone who reaches its ports can run "
            "code on it (docs/cluster.md)",
            file=sys.stderr,
        )
    try:
        actors = cluster.num_actors(runtime.actors, runtime.cpus_per_actor)
        gpus = gpus_per_learner(runtime.learners, runtime.device, cluster.nodes())
    except BaseException:
        cluster.close()
        raise
    return OpenCluster(cluster, actors, gpus, tables.restore)
