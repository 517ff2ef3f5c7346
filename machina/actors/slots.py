"""Which slots each actor steps, and what follows for the buffer."""

from __future__ import annotations

import numpy as np

from machina.buffers.buffer import BufferSizes
from machina.config import RuntimeConfig
from machina.errors import UserError
from machina.specs import EnvSpec
from machina.types import IntArray

GROUPS_PER_ACTOR = 2
"""One steps while the policy acts for the other."""


def assign_slots(
    spec: EnvSpec, envs_per_task: int, actors: int, groups_per_actor: int = GROUPS_PER_ACTOR
) -> list[list[IntArray]]:
    """Indices of the slots of each actor's groups.

    Neighbours in a batch have different tasks, so that every task gets the same share of frames. The slots of a game
    for several agents stay together.

    Raises:
        UserError: more actors than slots.
    """
    total = spec.num_slots(envs_per_task) // spec.slots_per_game
    if total < actors:
        raise UserError(f"actors={actors}: only {total} environments to step; use fewer actors or more --envs-per-task")
    groups = groups_per_actor if total >= groups_per_actor * actors else 1
    slots = np.arange(total * spec.slots_per_game, dtype=np.int64).reshape(total, spec.slots_per_game)
    chunks = [chunk.reshape(-1) for chunk in np.array_split(slots, actors * groups)]
    return [chunks[i * groups : (i + 1) * groups] for i in range(actors)]


def buffer_sizes(
    slots: list[list[IntArray]],
    runtime: RuntimeConfig,
    batch_size: int,
    unroll_length: int,
    max_policy_lag: int | None,
    total_env_steps: int,
    seed: int,
) -> BufferSizes:
    """What the buffer between these actors and the learner is made for.

    Args:
        slots: of each actor's groups.
        runtime: the configuration's section.
        batch_size: unrolls per update.
        unroll_length: T.
        max_policy_lag: bound on the policy lag, in updates; None: any.
        total_env_steps: length of the run.
        seed: of the run.

    Raises:
        UserError: ``queue_unrolls`` is too small for the learner ever to get a batch, or the bound on the policy lag
            drops the same slots of every round.
    """
    of_actors = [sum(len(group) for group in groups) for groups in slots]
    if max_policy_lag is not None:
        _check_policy_lag(of_actors, runtime, batch_size, max_policy_lag)
    capacity = _capacity(slots, of_actors, runtime, batch_size)
    return BufferSizes(
        batch_size,
        unroll_length,
        capacity,
        max_policy_lag,
        waits=runtime.place == "local",
        num_slots=sum(of_actors),
        total_env_steps=total_env_steps,
        seed=seed,
    )


def _capacity(slots: list[list[IntArray]], of_actors: list[int], runtime: RuntimeConfig, batch_size: int) -> int:
    """Most unrolls that may wait for the learner; by default the least that cannot block: a batch but one, and the
    largest handover."""
    if runtime.lock_step:
        return batch_size + sum(of_actors)
    if runtime.place == "inline":
        largest = sum(of_actors)  # every actor plays a round when the buffer runs dry
    elif runtime.place == "ray":
        largest = max(of_actors)  # the groups of an actor come as one
    else:
        largest = max(len(group) for groups in slots for group in groups)
    smallest = batch_size + largest - 1
    if runtime.queue_unrolls is not None and runtime.queue_unrolls < smallest:
        raise UserError(
            f"queue_unrolls={runtime.queue_unrolls}: actors hand over up to {largest} unrolls at once and the learner "
            f"takes {batch_size}; use at least {smallest}"
        )
    return runtime.queue_unrolls or smallest


def _check_policy_lag(of_actors: list[int], runtime: RuntimeConfig, batch_size: int, max_policy_lag: int) -> None:
    # Actors that go in step begin together.
    unrolls = sum(of_actors) if runtime.lock_step or runtime.place == "inline" else max(of_actors)
    lag = -(-unrolls // batch_size) - 1
    if lag > max_policy_lag:
        raise UserError(
            f"batch_size={batch_size}: {unrolls} unrolls are collected with the same parameters, and the last "
            f"ones would be {lag} updates old; use --batch-size {unrolls} or --max-policy-lag {lag}"
        )
