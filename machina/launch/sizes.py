"""What is found out about a job's sizes before it starts: a batch that never fills, memory that is not there."""

from __future__ import annotations

from typing import NamedTuple

from machina.buffers.unrolls import unroll_bytes
from machina.envs.builders import AtariFactory, GymnasiumFactory
from machina.errors import UserError
from machina.hardware import available_memory
from machina.interfaces import EnvFactory
from machina.launch.plan import RunPlan
from machina.nets.config import TorsoConfig
from machina.nets.sizes import NetworkSize, network_size

LEARNER_COPIES = 4
"""Of the parameters: themselves, gradients, the optimizer's moments, what is published."""

LSTM_COPIES = 6
"""Of the core state's size, that an LSTM keeps of every entry to learn from: four gates, cell and output."""

ENTRIES_AT_ONCE = 256
"""That a learner puts through its network at least, of Atari's size; it takes more of smaller ones."""

ATARI_BYTES = 4 * 84 * 84

WORKER_BYTES = 20 << 20
"""Memory of a worker process's own: 21 MiB for CartPole's, whose environment needs next to nothing."""

ATARI_SLOT_BYTES = 3 << 19
"""Of an emulator and its frames: 1.8 MiB measured for Pong."""


class Forecast(NamedTuple):
    """Bytes that a job needs on this machine at least; in truth it will be more."""

    environments: int
    unrolls: int
    """Those being filled, those that may wait, a batch at least, and a batch that is joined for the learner."""
    replay: int
    """What the buffer holds when it is full, of the algorithms that learn from a replay."""
    network: int
    """Parameters of learner ranks, actors and a league's opponents, and what learning keeps of each entry."""

    @property
    def total(self) -> int:
        return sum(self)


REMEDIES = {
    "environments": "fewer --envs-per-task",
    "unrolls": "a shorter --unroll-length, a smaller --batch-size, fewer --envs-per-task or --queue-unrolls",
    "replay": "a smaller --replay-capacity, or --compress-frames",
    "network": "a smaller network (--lstm-size, --hidden-sizes, --filters), or fewer --actors, --learners or "
    "--opponents-in-memory",
}


def forecast(plan: RunPlan) -> Forecast:
    """The least memory of a job, its learner on the CPU, all on one machine.

    Networks of the user's own are not counted: their sizes are not ours to know.
    """
    spec = plan.spec
    slots, entries = spec.num_slots(plan.config.env.envs_per_task), plan.config.algo.unroll_length + 1
    network = getattr(plan.config.algo, "network", None)
    size = NetworkSize(0, 0, 0)
    if isinstance(network, TorsoConfig) and getattr(network, "network_name", None) is None:
        size = network_size(spec, network)
    learners = plan.config.runtime.learners if plan.machine.device == "cpu" else 0
    # bfloat16 forward, and back.
    at_once = min(
        plan.batch_size * entries, ENTRIES_AT_ONCE, max(1, ENTRIES_AT_ONCE * ATARI_BYTES // spec.observation_bytes)
    )
    policies = plan.machine.actors * (1 + _opponents(plan))
    kept = 4 * size.convolved * at_once + 4 * LSTM_COPIES * size.core_state // 2 * max(entries, at_once)
    return Forecast(
        environments=slots * _least_slot_bytes(plan.factory),
        unrolls=unroll_bytes(spec, plan.algorithm.policy_outputs(spec), plan.config.algo.unroll_length, size.core_state)
        * (slots + max(plan.batch_size, _waiting(plan)) + plan.batch_size),
        replay=plan.algorithm.buffer_bytes(spec),
        network=4 * size.parameters * learners * LEARNER_COPIES
        + 2 * size.parameters * policies
        + kept * min(learners, 1),
    )


def _waiting(plan: RunPlan) -> int:
    """Unrolls that the user lets wait for the learner; no more than the run collects."""
    length: int = plan.config.algo.unroll_length
    allowed = 0 if plan.config.runtime.lock_step else plan.config.runtime.queue_unrolls or 0
    return min(allowed, plan.total_env_steps // length)


def _opponents(plan: RunPlan) -> int:
    """Policies that an actor of a league holds in addition to its own; no more than the snapshots of the whole run."""
    every = plan.config.league.snapshot_updates
    if every is None or plan.config.league.pool_share == 0:
        return 0
    steps: int = every * plan.batch_size * plan.config.algo.unroll_length
    return min(plan.config.league.opponents_in_memory, plan.total_env_steps // steps)


def _least_slot_bytes(factory: EnvFactory) -> int:
    """Memory that a slot takes at least; 0 where nothing is known."""
    if isinstance(factory, AtariFactory):
        return ATARI_SLOT_BYTES
    return WORKER_BYTES if isinstance(factory, GymnasiumFactory) and factory.in_workers else 0


def check_batch_fills(plan: RunPlan) -> None:
    """Refuse a run that would be over before its first update: the learner would wait as long as it lasts.

    Raises:
        UserError: with the sizes, and what to change.
    """
    plan.config.algo.check_length(plan.total_env_steps, plan.batch_size)


def check_memory(plan: RunPlan) -> None:
    """Refuse a job that can't fit into this machine's free memory, as far as that can be known.

    The nodes of a cluster that is joined have memory of their own, which is not asked for here.

    Raises:
        UserError: with the forecast, and what to make smaller.
    """
    if plan.config.runtime.address is not None:
        return
    needed, free = forecast(plan), available_memory()
    if needed.total <= free:
        return
    largest = max(needed._fields, key=lambda name: getattr(needed, name))
    shares = ", ".join(f"{name} {_gib(size)}" for name, size in needed._asdict().items())
    raise UserError(
        f"the job needs at least {_gib(needed.total)} GiB of memory ({shares}), {_gib(free)} GiB are free; "
        f"use {REMEDIES[largest]}"
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f}"
