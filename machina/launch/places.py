"""Where a run lives: the actors, the learner group and the evaluations of the configured place."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

import torch

from machina.actors.actor_builder import ActorSetup
from machina.actors.actor_group import THIS_MACHINE, ActorGroup
from machina.actors.inline import InlineActors
from machina.actors.local import LocalActors
from machina.buffers.buffer import Buffer
from machina.buffers.parameters import ParameterStore
from machina.checkpoint.status import NodeStatus
from machina.errors import RunFailedError
from machina.handles import Handle, InlineHandle, ProcessHandle
from machina.interfaces import Learner
from machina.launch.name_tables import name_tables
from machina.launch.plan import RunPlan
from machina.league.opponents import PoolOpponents
from machina.league.pool import Snapshot
from machina.league.snapshots import SnapshotStore
from machina.learner.learner_group import LearnerGroup
from machina.learner.learner_rank import COLLECTIVE_TIMEOUT_S, LearnerRank, RankSetup, free_port
from machina.learner.sums import SINGLE_RANK, join_ranks
from machina.play.evaluation import evaluate
from machina.report.evaluation import EvaluationResult


class Evaluation(Protocol):
    """An evaluation that was asked for."""

    def result(self) -> EvaluationResult | None:
        """The scores, or None as long as it plays.

        Raises:
            UserError, RunFailedError: there will be none.
        """
        ...


class Actors(NamedTuple):
    """The actors, and what lies between them and the learner."""

    group: ActorGroup
    buffer: Buffer
    store: ParameterStore


class Place(Protocol):
    """Makes what of a run depends on where it runs."""

    def make_actors(self) -> Actors: ...

    def make_learners(self, on_fault: Callable[[str], None], is_over: Callable[[], bool]) -> LearnerGroup:
        """The learner ranks.

        Args:
            on_fault: called for every restart.
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

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan

    def make_actors(self) -> Actors:
        """Actors of the place ``inline`` or ``local``."""
        plan, store = self._plan, ParameterStore()
        slots = plan.slots()
        shards = LocalShards()
        buffer = plan.algorithm.make_buffer(plan.spec, plan.buffer_sizes(slots), shards)
        actors = InlineActors if plan.config.runtime.place == "inline" else LocalActors
        setup = actor_setup(plan, lambda load: load())
        return Actors(actors(setup, plan.config.runtime, slots, buffer, store), buffer, store)

    def make_learners(self, on_fault: Callable[[str], None], is_over: Callable[[], bool]) -> LearnerGroup:
        """One rank in this thread, or several in processes of their own."""
        size = self._plan.config.runtime.learners
        make_learner = learner_maker(self._plan)
        if size == 1:
            setup = RankSetup(make_learner, 0, 1, None)
            return LearnerGroup(
                lambda: [InlineHandle(lambda: LearnerRank(setup), "learner")], 0, None, on_fault, is_over
            )

        prepare = name_tables(self._plan.config).restore

        def start() -> list[Handle]:
            rendezvous = f"tcp://127.0.0.1:{free_port()}"
            threads = self._plan.machine.learner_threads
            setups = [RankSetup(make_learner, index, size, rendezvous) for index in range(size)]
            return [
                ProcessHandle(prepare, functools.partial(LearnerRank, setup), f"learner rank {setup.rank}", threads)
                for setup in setups
            ]

        return LearnerGroup(start, self._plan.updates_ahead, self._plan.config.runtime.max_restarts, on_fault, is_over)

    def evaluate(self, parameters: Any, env_steps: int, run: str, stop: Callable[[], bool]) -> Evaluation:
        """Score these parameters now; training waits."""
        return PlayedHere(lambda: evaluate_parameters(self._plan, parameters, env_steps, run, stop))

    def share(self, snapshot: Snapshot, store: SnapshotStore) -> Any:
        """The snapshot's file; it is checked at every load."""
        return functools.partial(store.load, snapshot)

    def flat(self, parameters: Any) -> torch.Tensor:
        """The vector itself."""
        return cast(torch.Tensor, parameters)

    def nodes(self) -> list[NodeStatus]:
        """This machine."""
        return [NodeStatus(THIS_MACHINE, self._plan.machine.cores, torch.cuda.device_count())]

    def close(self) -> None:
        """Nothing outlives its owner."""


class LocalShards:
    """Shards of a replay in this process; none is ever lost. Implements ``machina.buffers.buffer.Shards``."""

    def start(self, make: Callable[[], object], name: str) -> Handle:
        """A shard that is called where it is asked."""
        return InlineHandle(make, name)

    def report(self, message: str) -> None:
        """Not called."""
        raise RunFailedError(message)


class PlayedHere:
    """An evaluation in the caller's thread, played when its result is asked for."""

    def __init__(self, play: Callable[[], EvaluationResult]) -> None:
        self._play = play

    def result(self) -> EvaluationResult:
        """Play it."""
        return self._play()


class RayCluster:
    """A Ray cluster, joined or started for the run."""

    def __init__(self, plan: RunPlan) -> None:
        from machina.launch.ray_cluster import open_cluster

        self._open = open_cluster(plan.config, plan.machine.cores)
        device = "cuda" if self._open.gpus_per_learner else "cpu"
        self._plan = plan._replace(machine=plan.machine._replace(actors=self._open.actors, device=device))

    def make_actors(self) -> Actors:
        """Actors in processes of the cluster."""
        from machina.cluster.actor_group import RayActors
        from machina.cluster.shards import RayShards
        from machina.cluster.workers import shared_parameters

        plan, store = self._plan, ParameterStore()
        slots = plan.slots()
        shards = RayShards(self._open.prepare)
        buffer = plan.algorithm.make_buffer(plan.spec, plan.buffer_sizes(slots), shards)
        setup = actor_setup(plan, shared_parameters)
        actors = RayActors(setup, plan.config.runtime, slots, buffer, store, self._open.prepare)
        shards.on_loss = actors.note_loss
        return Actors(actors, buffer, store)

    def make_learners(self, on_fault: Callable[[str], None], is_over: Callable[[], bool]) -> LearnerGroup:
        """Ranks in processes of the cluster."""
        from machina.cluster.workers import start_ray_ranks

        machine, size = self._plan.machine, self._plan.config.runtime.learners
        make_learner = learner_maker(self._plan)
        gpus = self._open.gpus_per_learner

        def start() -> Any:
            return start_ray_ranks(self._open.prepare, make_learner, size, machine.learner_threads, gpus)

        return LearnerGroup(start, self._plan.updates_ahead, self._plan.config.runtime.max_restarts, on_fault, is_over)

    def evaluate(self, parameters: Any, env_steps: int, run: str, stop: Callable[[], bool]) -> Evaluation:
        """Score these parameters in another process, while training continues."""
        from machina.launch.ray_cluster import RemoteEvaluation

        plan = self._plan

        def play(flat: Any) -> EvaluationResult:
            return evaluate_parameters(plan, torch.from_numpy(flat), env_steps, run, lambda: False)

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


def open_place(plan: RunPlan) -> Place:
    """The configured place.

    Raises:
        UserError: the cluster can't be joined, or is too small.
    """
    return RayCluster(plan) if plan.config.runtime.place == "ray" else OneMachine(plan)


def evaluate_parameters(
    plan: RunPlan, parameters: torch.Tensor, env_steps: int, run: str, stop: Callable[[], bool]
) -> EvaluationResult:
    """Play the configured number of episodes of every task with these parameters."""
    policy = plan.make_policy(explores=False)
    policy.load_parameters(parameters, done=1.0)
    return evaluate(
        plan.factory,
        policy,
        tasks=range(plan.spec.num_tasks),
        episodes=plan.config.eval_episodes,
        seed=plan.config.seed,
        run=run,
        env_steps=env_steps,
        step_timeout_s=plan.config.runtime.step_timeout_s,
        stop=stop,
    )


def actor_setup(plan: RunPlan, fetch: Callable[[Any], torch.Tensor]) -> ActorSetup:
    """What every actor is built from; ``fetch`` turns what ``Place.share`` gave into a snapshot's parameters."""
    runtime, league, machine = plan.config.runtime, plan.config.league, plan.machine
    make_opponents = None
    if league.snapshot_updates is not None:
        make_opponents = functools.partial(
            PoolOpponents, functools.partial(plan.make_policy, explores=False), league.opponents_in_memory, fetch
        )
    return ActorSetup(
        factory=plan.factory,
        make_policy=functools.partial(plan.make_policy, explores=True),
        make_opponents=make_opponents,
        unroll_length=plan.config.algo.unroll_length,
        policy_outputs=plan.algorithm.policy_outputs(plan.spec),
        seed=plan.config.seed,
        step_timeout_s=runtime.step_timeout_s,
        lock_step=runtime.lock_step,
        torch_threads=machine.actor_threads,
        yields=machine.device == "cpu" and machine.learner_threads > 1,
    )


def learner_maker(plan: RunPlan) -> Callable[[int, int, str | None], Learner]:
    """Builds a rank's learner, of rank, number of ranks and meeting point."""
    algorithm, spec, runtime = plan.algorithm, plan.spec, plan.config.runtime
    seed, device = plan.config.seed, plan.machine.device
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
