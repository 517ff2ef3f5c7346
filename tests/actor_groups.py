"""Planes with real environments, and what the tests do with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from machina.actors.actor_group import InProcessPlane
from machina.buffers.buffer import joined
from machina.interfaces import Learner
from machina.launch.configuration import AnyRunConfig, job_config
from machina.launch.places import OneMachine
from machina.launch.plan import Parts, build_parts
from machina.learner.sums import SINGLE_RANK
from machina.nets.unroll_tensors import to_device
from machina.types import Array, Unroll

TIMEOUT_S = 30.0


class Job(NamedTuple):
    """A plane that runs, and what it was built from."""

    plane: InProcessPlane
    parts: Parts
    config: AnyRunConfig
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
    """Start a plane; the learner's first parameters are published, nobody updates them."""
    one_thread = {"actor_threads": 1, "learner_threads": 1, "env_threads": 1, "precision": "float32"}
    config, _ = job_config(
        algorithm,
        environment,
        "defaults",
        algo=algo or {},
        env=env or {},
        runtime={**one_thread, "place": place, **(runtime or {})},
    )
    parts = build_parts(config)
    learner = parts.algorithm.make_learner(parts.factory.spec, "cpu", "float32", seed=3, ranks=SINGLE_RANK)
    plane = OneMachine(config, parts).make_plane()
    plane.publish(0, learner.flat_parameters())
    plane.start(state or {})
    try:
        yield Job(plane, parts, config, learner)
    finally:
        plane.close()


def as_tensors(batch: Unroll[Array]) -> Unroll[Tensor]:
    """The batch as the learner computes with it."""
    return to_device(batch, torch.device("cpu"))


def next_batch(plane: InProcessPlane) -> Unroll[Array]:
    """The next batch, whatever the place's patience; it counts as learned."""
    for _ in range(10_000):
        if (batch := plane.next_batch(TIMEOUT_S / 100)) is not None:
            unroll = joined(batch.parts)
            batch.release()
            plane.queue.settle(batch)
            return unroll
    raise AssertionError("the plane gives no batch")


def take(job: Job, count: int, *, learn: bool = False) -> list[Unroll[Array]]:
    """Batches in order; with ``learn`` each one updates the parameters that are published."""
    batches = []
    for version in range(1, count + 1):
        batches.append(next_batch(job.plane))
        if learn:
            job.learner.update(batches[-1], 0.0)
        job.plane.publish(version, job.learner.flat_parameters())
    return batches
