"""Where a run's parts live: the plane and the learner group of the configured place."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol, cast

import torch

from machina.actors.actor_builder import ActorSetup
from machina.actors.actor_group import THIS_MACHINE, InProcessPlane, Plane, PlaneConfig
from machina.actors.inline import InlinePlane
from machina.actors.local import LocalPlane
from machina.checkpoint.status import NodeStatus
from machina.errors import RunFailedError
from machina.handles import Handle, InlineHandle, ProcessHandle
from machina.interfaces import Learner
from machina.launch.configuration import AnyRunConfig
from machina.launch.plan import Parts, policy_maker
from machina.launch.registrations import registrations
from machina.league.opponents import PoolOpponents
from machina.league.pool import Snapshot
from machina.league.snapshots import SnapshotStore
from machina.learner.learner_group import LearnerGroup
from machina.learner.learner_rank import COLLECTIVE_TIMEOUT_S, LearnerRank, RankSetup, free_port
from machina.learner.sums import SINGLE_RANK, join_ranks
from machina.play.evaluation import evaluate
from machina.report.evaluation import EvaluationResult

UPDATES_AHEAD = 1
"""Updates under way while the next batch is sent, where ranks are other processes."""


class Evaluation(Protocol):
    """An evaluation that was asked for."""

    def result(self) -> EvaluationResult | None:
        """The scores, or None as long as it plays.

        Raises:
            UserError, RunFailedError: there will be none.
        """
        ...


class Place(Protocol):
    """Makes the parts of a run that depend on where they run."""

    def make_plane(self) -> Plane: ...

    def make_learners(self, on_fault: Callable[[str], None], is_over: Callable[[], bool]) -> LearnerGroup:
        """The learner ranks.

        Args:
            on_fault: told of every restart.
            is_over: whether the run ends now: then they are not waited for as long as else.
        """
        ...

    def evaluate(self, parameters: Any, env_steps: int, run: str, stop: Callable[[], bool]) -> Evaluation:
        """Score these parameters; ``stop`` is asked whether to give up."""
        ...

    def share(self, snapshot: Snapshot, store: SnapshotStore) -> Any:
        """What actors get a snapshot's parameters from."""
        ...

    def flat(self, parameters: Any) -> torch.Tensor:
        """The flat vector that a learner's published parameters stand for.

        Raises:
            RunFailedError: they are gone with their node.
        """
        ...

    def nodes(self) -> list[NodeStatus]:
        """The machines of the run, for `machina status`."""
        ...

    def close(self) -> None: ...


class OneMachine:
    """This process, and processes of this machine for several learner ranks."""

    def __init__(self, config: AnyRunConfig, parts: Parts) -> None:
        self._config = config
        self._parts = parts

    def make_plane(self) -> InProcessPlane:
        """The plane of the place ``inline`` or ``local``."""
        plane = InlinePlane if self._config.runtime.place == "inline" else LocalPlane
        return plane(
            actor_setup(self._config, self._parts, lambda load: load()),
            self._config.runtime,
            plane_config(self._config, self._parts),
        )

    def make_learners(self, on_fault: Callable[[str], None], is_over: Callable[[], bool]) -> LearnerGroup:
        """One rank in this thread, or several in processes of their own."""
        size = self._config.runtime.learners
        make_learner = learner_maker(self._config, self._parts)
        if size == 1:
            setup = RankSetup(make_learner, 0, 1, None)
            return LearnerGroup(
                lambda: [InlineHandle(lambda: LearnerRank(setup), "learner")], 0, None, on_fault, is_over
            )

        prepare = registrations(self._config).restore

        def start() -> list[Handle]:
            rendezvous = f"tcp://127.0.0.1:{free_port()}"
            threads = self._parts.machine.learner_threads
            setups = [RankSetup(make_learner, index, size, rendezvous) for index in range(size)]
            return [
                ProcessHandle(prepare, functools.partial(LearnerRank, setup), f"learner rank {setup.rank}", threads)
                for setup in setups
            ]

        return LearnerGroup(start, updates_ahead(self._config), self._config.runtime.max_restarts, on_fault, is_over)

    def evaluate(self, parameters: Any, env_steps: int, run: str, stop: Callable[[], bool]) -> Evaluation:
        """Score these parameters now; training waits."""
        return PlayedHere(lambda: evaluate_parameters(self._config, self._parts, parameters, env_steps, run, stop))

    def share(self, snapshot: Snapshot, store: SnapshotStore) -> Any:
        """The snapshot's file; it is checked at every load."""
        return functools.partial(store.load, snapshot)

    def flat(self, parameters: Any) -> torch.Tensor:
        """The vector itself."""
        return cast(torch.Tensor, parameters)

    def nodes(self) -> list[NodeStatus]:
        """This machine."""
        return [NodeStatus(THIS_MACHINE, self._parts.machine.cores, torch.cuda.device_count())]

    def close(self) -> None:
        """Nothing outlives its owner."""


class PlayedHere:
    """An evaluation in the caller's thread, played when its result is asked for."""

    def __init__(self, play: Callable[[], EvaluationResult]) -> None:
        self._play = play

    def result(self) -> EvaluationResult:
        """Play it."""
        return self._play()


class RayCluster:
    """A Ray cluster, joined or started for the run."""

    def __init__(self, config: AnyRunConfig, parts: Parts) -> None:
        from machina.launch.ray_cluster import open_cluster

        self._config = config
        self._open = open_cluster(config, parts.machine.cores)
        device = "cuda" if self._open.gpus_per_learner else "cpu"
        self._parts = parts._replace(machine=parts.machine._replace(actors=self._open.actors, device=device))

    def make_plane(self) -> Plane:
        """Actors in processes of the cluster."""
        from machina.cluster.actor_group import RayPlane
        from machina.cluster.workers import shared_parameters

        setup = actor_setup(self._config, self._parts, shared_parameters)
        return RayPlane(setup, self._config.runtime, plane_config(self._config, self._parts), self._open.prepare)

    def make_learners(self, on_fault: Callable[[str], None], is_over: Callable[[], bool]) -> LearnerGroup:
        """Ranks in processes of the cluster."""
        from machina.cluster.workers import start_ray_ranks

        machine, size = self._parts.machine, self._config.runtime.learners
        make_learner = learner_maker(self._config, self._parts)
        gpus = self._open.gpus_per_learner

        def start() -> Any:
            return start_ray_ranks(self._open.prepare, make_learner, size, machine.learner_threads, gpus)

        return LearnerGroup(start, updates_ahead(self._config), self._config.runtime.max_restarts, on_fault, is_over)

    def evaluate(self, parameters: Any, env_steps: int, run: str, stop: Callable[[], bool]) -> Evaluation:
        """Score these parameters in another process, while training goes on."""
        from machina.launch.ray_cluster import RemoteEvaluation

        config, parts = self._config, self._parts

        def play(flat: Any) -> EvaluationResult:
            return evaluate_parameters(config, parts, torch.from_numpy(flat), env_steps, run, lambda: False)

        return RemoteEvaluation(self._open.prepare, play, parameters, stop)

    def share(self, snapshot: Snapshot, store: SnapshotStore) -> Any:
        """A reference, which every node can follow."""
        import ray

        return ray.put(store.load(snapshot).numpy())

    def flat(self, parameters: Any) -> torch.Tensor:
        """The vector that a reference stands for."""
        import ray

        from machina.cluster.workers import shared_parameters

        try:
            flat: torch.Tensor = shared_parameters(parameters)
        except ray.exceptions.RayError as error:
            raise RunFailedError(f"the learner's parameters are lost: {type(error).__name__}") from error
        return flat

    def nodes(self) -> list[NodeStatus]:
        """The nodes of the cluster."""
        return self._open.nodes()

    def close(self) -> None:
        """Leave the cluster, or end it if it was started for this run."""
        self._open.cluster.close()


def open_place(config: AnyRunConfig, parts: Parts) -> Place:
    """The configured place.

    Raises:
        UserError: the cluster can't be joined, or is too small.
    """
    return RayCluster(config, parts) if config.runtime.place == "ray" else OneMachine(config, parts)


def evaluate_parameters(
    config: AnyRunConfig, parts: Parts, parameters: torch.Tensor, env_steps: int, run: str, stop: Callable[[], bool]
) -> EvaluationResult:
    """Play the configured number of episodes of every task with these parameters."""
    policy = policy_maker(config, parts, explores=False)()
    policy.load_parameters(parameters)
    return evaluate(
        parts.factory,
        policy,
        tasks=range(parts.factory.spec.num_tasks),
        episodes=config.eval_episodes,
        seed=config.seed,
        run=run,
        env_steps=env_steps,
        step_timeout_s=config.runtime.step_timeout_s,
        stop=stop,
    )


def policy_lag_bound(config: AnyRunConfig) -> int | None:
    """The run's, or the algorithm's."""
    bound: int | None = config.algo.policy_lag_bound
    return bound if config.runtime.max_policy_lag is None else config.runtime.max_policy_lag


def updates_ahead(config: AnyRunConfig) -> int:
    """0 where actors wait for every update."""
    return 0 if config.runtime.lock_step or policy_lag_bound(config) == 0 else UPDATES_AHEAD


def actor_setup(config: AnyRunConfig, parts: Parts, fetch: Callable[[Any], torch.Tensor]) -> ActorSetup:
    """What every actor is built from; ``fetch`` turns what ``Place.share`` gave into a snapshot's parameters."""
    make_policy = policy_maker(config, parts, explores=True)
    league = config.league
    return ActorSetup(
        factory=parts.factory,
        make_policy=make_policy,
        make_opponents=None
        if league.snapshot_updates is None
        else lambda: PoolOpponents(policy_maker(config, parts, explores=False), league.opponents_in_memory, fetch),
        unroll_length=config.algo.unroll_length,
        policy_outputs=parts.algorithm.policy_outputs(parts.factory.spec),
        seed=config.seed,
        step_timeout_s=config.runtime.step_timeout_s,
        lock_step=config.runtime.lock_step,
        torch_threads=parts.machine.actor_threads,
        yields=parts.machine.device == "cpu" and parts.machine.learner_threads > 1,
    )


def plane_config(config: AnyRunConfig, parts: Parts) -> PlaneConfig:
    """The sizes of the plane, and its bound on the policy lag."""
    return PlaneConfig(
        parts.batch_size,
        config.env.envs_per_task,
        parts.machine.actors,
        policy_lag_bound(config),
        parts.machine.groups_per_actor,
    )


def learner_maker(config: AnyRunConfig, parts: Parts) -> Callable[[int, int, str | None], Learner]:
    """Builds a rank's learner, of rank, number of ranks and meeting point."""
    algorithm, spec, runtime = parts.algorithm, parts.factory.spec, config.runtime
    seed, device = config.seed, parts.machine.device
    in_cluster = runtime.place == "ray"

    def make(rank: int, size: int, rendezvous: str | None) -> Learner:
        own = device
        if device == "cuda" and not in_cluster:  # Ray shows each rank its own GPU only
            own = f"cuda:{rank}"
        ranks = SINGLE_RANK
        if rendezvous is not None:
            ranks = join_ranks(rank, size, rendezvous, torch.device(own), COLLECTIVE_TIMEOUT_S)
        return algorithm.make_learner(spec, own, runtime.precision, seed, ranks)

    return make
