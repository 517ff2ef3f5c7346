"""The plan of a run: its configuration, resolved once for this machine."""

from __future__ import annotations

from typing import NamedTuple

from machina.actors.slots import GROUPS_PER_ACTOR, assign_slots, buffer_sizes
from machina.actors.stepping import build_timeout_s
from machina.buffers.buffer import BufferSizes
from machina.config import EnvConfig, RuntimeConfig
from machina.envs.builders import GymnasiumFactory, RegisteredFactory, parse_environment
from machina.envs.games.table import GAMES
from machina.hardware import available_cores
from machina.interfaces import Algorithm, EnvFactory, Policy
from machina.launch.configuration import AnyRunConfig
from machina.nets.precision import Precision, check_device, resolve_device, resolve_precision
from machina.processes import seed_generators
from machina.registry import algorithm_entry
from machina.specs import EnvSpec
from machina.types import IntArray
from machina.waiting import within

LARGE_OBSERVATION = 16_384
"""Bytes of an observation from which on all cores help a learner of several passes. Below, threads mostly wait for each
other: on boards of Connect Four two were 5 % slower than one, and five times slower with another job."""


UPDATES_AHEAD = 1
"""Updates under way while the next batch is sent, where learner ranks are other processes."""


class MachinePlan(NamedTuple):
    """Devices, precision and threads of a run, resolved for this machine."""

    device: str
    actor_device: str
    precision: Precision
    actor_precision: Precision
    cores: int
    actors: int
    actor_threads: int
    learner_threads: int
    env_threads: int
    groups_per_actor: int
    in_cluster: bool
    """Where ranks compute is known when the cluster is joined; until then ``device`` is what this machine has."""

    def line(self) -> str:
        """One line for the user."""
        acting = ""
        if self.actor_device != self.device:
            acting = f"; acting on {self.actor_device}, {self.actor_precision.reason}"
        learning = "in the cluster" if self.in_cluster else f"on {self.device}, {self.precision.reason}"
        return (
            f"{self.cores} cores; learning {learning}{acting}; threads: "
            f"learner {self.learner_threads}, actor {self.actor_threads}, environments {self.env_threads}"
        )


class RunPlan(NamedTuple):
    """A run's configuration, and everything that was resolved from it, once."""

    config: AnyRunConfig
    factory: EnvFactory
    algorithm: Algorithm
    machine: MachinePlan
    batch_size: int
    """Unrolls per update."""
    total_env_steps: int
    """Length of the run and of its schedules."""
    max_policy_lag: int | None
    """Updates that the parameters of an unroll may lie behind when it is learned from; None: any number."""

    @property
    def spec(self) -> EnvSpec:
        """Of the environment."""
        return self.factory.spec

    @property
    def updates_ahead(self) -> int:
        """Updates under way while the next batch is sent, where ranks are other processes; 0 where actors wait for
        every update."""
        return 0 if self.config.runtime.lock_step or self.max_policy_lag == 0 else UPDATES_AHEAD

    @property
    def env_steps_per_update(self) -> int:
        """Collected for each update."""
        steps: int = self.config.algo.env_steps_per_update(self.batch_size)
        return steps

    @property
    def saves_replay(self) -> bool:
        """Whether checkpoints hold what is kept to be learned from again."""
        saves: bool = self.config.algo.saves_replay(self.algorithm.buffer_bytes(self.spec))
        return saves

    def make_policy(self, *, explores: bool) -> Policy:
        """A policy on the actors' device; one that explores collects data, the others show what was learned."""
        spec, machine = self.spec, self.machine
        num_slots = spec.num_slots(self.config.env.envs_per_task)
        precision = self.config.runtime.precision
        return self.algorithm.make_policy(spec, machine.actor_device, precision, explores=explores, num_slots=num_slots)

    def slots(self) -> list[list[IntArray]]:
        """Of each actor's groups."""
        machine = self.machine
        return assign_slots(self.spec, self.config.env.envs_per_task, machine.actors, machine.groups_per_actor)

    def buffer_sizes(self, slots: list[list[IntArray]]) -> BufferSizes:
        """What the buffer between these actors' slots and the learner is made for."""
        algo, runtime = self.config.algo, self.config.runtime
        return buffer_sizes(
            slots,
            runtime,
            self.batch_size,
            algo.unroll_length,
            self.max_policy_lag,
            self.total_env_steps,
            self.config.seed,
        )


def plan_machine(config: AnyRunConfig, spec: EnvSpec) -> MachinePlan:
    """Choose devices, precision and numbers of threads.

    On a CPU the learner and the actors share the cores: every thread that waits leaves its core to
    another, so each gets what it can use rather than a share (measured in docs/benchmarks.md)."""
    runtime = config.runtime
    cores = available_cores()
    inline, in_cluster = runtime.place == "inline", runtime.place == "ray"
    check_device(runtime.device)
    # A cluster's GPUs may all be on other machines than the driver's.
    device = resolve_device("auto" if in_cluster and runtime.device != "cpu" else runtime.device)
    # In a cluster the GPUs are the learner's; its nodes with actors may have none.
    actor_device = resolve_device(runtime.actor_device or ("cpu" if in_cluster else runtime.device))
    # How many "auto" means is known when the cluster is joined.
    actors = 1 if runtime.actors == "auto" else runtime.actors
    shared = cores if inline else max(1, cores // (2 * actors))
    learner_does_most = config.algo.passes > 1 and spec.observation_bytes >= LARGE_OBSERVATION
    for_learners = cores if inline or learner_does_most else cores // 2
    return MachinePlan(
        device=str(device),
        actor_device=str(actor_device),
        precision=resolve_precision(runtime.precision, device, spec.observation_bytes),
        actor_precision=resolve_precision(runtime.precision, actor_device, spec.observation_bytes),
        cores=cores,
        actors=actors,
        actor_threads=runtime.actor_threads or (max(1, int(runtime.cpus_per_actor)) if in_cluster else shared),
        learner_threads=runtime.learner_threads or max(1, for_learners // runtime.learners),
        env_threads=_env_threads(runtime),
        # Where the learner keeps all cores busy, nothing is gained by acting while environments step, and larger
        # batches of both take a quarter less time. It must not depend on the machine or the place: lock-step repeats.
        groups_per_actor=1 if learner_does_most else GROUPS_PER_ACTOR,
        in_cluster=in_cluster,
    )


def shares_generators(factory: EnvFactory) -> bool:
    """Whether its environments, or a wrapper, run code that is not ours in the process that steps them.

    Then they share the process's global generators (``random``, ``numpy.random``, ``torch``).
    """
    if getattr(factory, "wrapper", None) is not None:
        return True
    if isinstance(factory, GymnasiumFactory):
        return not factory.in_workers
    return isinstance(factory, RegisteredFactory) or (bool(factory.spec.seats) and factory.spec.name not in GAMES)


def seed_shared_generators(factory: EnvFactory, *entropy: int) -> None:
    """Called where environments are about to be played: what they draw from this process's generators repeats."""
    if shares_generators(factory):
        seed_generators(*entropy)


def _env_threads(runtime: RuntimeConfig) -> int:
    """Threads that step one game's environments."""
    all_of_actor = max(1, int(runtime.cpus_per_actor)) if runtime.place == "ray" else available_cores()
    return runtime.env_threads or all_of_actor


def env_factory(
    name: str, config: EnvConfig, step_timeout_s: float, wrapper: str | None = None, env_threads: int = 1
) -> EnvFactory:
    """See ``parse_environment``; one of its environments is built, to read its spaces, in time.

    Raises:
        UserError: name, configuration class, wrapper or environment is unusable.
        EnvironmentFaultError: building it takes longer.
    """
    return within(
        build_timeout_s(step_timeout_s),
        lambda: parse_environment(name, config, wrapper, env_threads),
        f"environment {name!r}: building it",
    )


def plan_run(config: AnyRunConfig) -> RunPlan:
    """Resolve a configuration for this machine; nothing heavy is started.

    Raises:
        UserError: the environment, the wrapper or the device can't be had, or the batch is too small.
        EnvironmentFaultError: building one of its environments takes too long.
    """
    runtime, algo = config.runtime, config.algo
    factory = env_factory(config.environment, config.env, runtime.step_timeout_s, config.wrapper, _env_threads(runtime))
    spec = factory.spec
    batch_size = algo.batch_size or spec.num_slots(config.env.envs_per_task)
    algo.check_batch(batch_size)
    frames = config.total_frames or config.env.frames_per_task * spec.num_tasks
    return RunPlan(
        config=config,
        factory=factory,
        algorithm=algorithm_entry(config.algorithm).build(algo),
        machine=plan_machine(config, spec),
        batch_size=batch_size,
        total_env_steps=max(1, frames // spec.frames_per_step),
        max_policy_lag=algo.policy_lag_bound if runtime.max_policy_lag is None else runtime.max_policy_lag,
    )
