"""Actors with real environments, and what the tests do with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from machina.buffers.buffer import joined
from machina.interfaces import Learner
from machina.launch.configuration import job_config
from machina.launch.places import Actors, OneMachine
from machina.launch.plan import RunPlan, plan_run
from machina.learner.sums import SINGLE_RANK
from machina.nets.unroll_tensors import to_device
from machina.types import Array, Learned, Unroll

TIMEOUT_S = 30.0


class Job(NamedTuple):
    """Actors that run, and what they were built from."""

    actors: Actors
    plan: RunPlan
    learner: Learner


@contextmanager
def running(
    environment: str,
    place: str,
    algo: dict[str, Any] | None = None,
    env: dict[str, Any] | None = None,
    runtime: dict[str, Any] | None = None,
    algorithm: str = "impala",
    state: dict[str, Array] | None = None,
) -> Iterator[Job]:
    """Start actors; the learner's first parameters are published, nobody updates them."""
    one_thread = {"actor_threads": 1, "learner_threads": 1, "env_threads": 1, "precision": "float32"}
    config, _ = job_config(
        algorithm,
        environment,
        "defaults",
        algo=algo or {},
        env=env or {},
        runtime={**one_thread, "place": place, **(runtime or {})},
    )
    plan = plan_run(config)
    learner = plan.algorithm.make_learner(plan.spec, "cpu", "float32", seed=3, ranks=SINGLE_RANK)
    actors = OneMachine(plan).make_actors()
    actors.store.publish(0, learner.flat_parameters(), done=0.0)
    actors.group.start(state or {})
    try:
        yield Job(actors, plan, learner)
    finally:
        actors.group.close()


def as_tensors(batch: Unroll[Array]) -> Unroll[Tensor]:
    """The batch as the learner computes with it."""
    return to_device(batch, torch.device("cpu"))


def next_batch(actors: Actors, updates: int = 0) -> Unroll[Array]:
    """The next batch, whatever the place's patience; it counts as learned."""
    for _ in range(10_000):
        if (batch := actors.group.next_batch(updates, TIMEOUT_S / 100)) is not None:
            unroll = joined(batch.parts)
            batch.release()
            actors.buffer.settle(batch, Learned({}))
            return unroll
    raise AssertionError("the actors give no batch")


def take(job: Job, count: int, *, learn: bool = False) -> list[Unroll[Array]]:
    """The first half of a run, in order; with ``learn`` each batch updates the parameters that are published."""
    batches = []
    for version in range(1, count + 1):
        done = version / (2 * count)
        batches.append(next_batch(job.actors, version - 1))
        if learn:
            job.learner.update(batches[-1], done)
        if not (job.plan.config.runtime.lock_step and job.actors.buffer.holds_batch):
            job.actors.store.publish(version, job.learner.flat_parameters(), done)
    return batches
