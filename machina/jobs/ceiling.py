"""The serial ceiling of a job on this machine: each part measured alone, with all cores."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from typing import Annotated, NamedTuple

import numpy as np
import torch
from pydantic import Field, TypeAdapter, ValidationError

from machina.actions import random_actions
from machina.buffers.unrolls import UnrollBuffer
from machina.config import cache_folder
from machina.hardware import torch_threads
from machina.launch.plan import RunPlan
from machina.learner.sums import SINGLE_RANK
from machina.types import ACTION_MASK, ActorInput, Array, Unroll

SECONDS_PER_PART = 4.0
WINDOWS = 8
"""Parts of a measurement; the best counts."""

BUSY = 0.25
"""Load per core from which on others are assumed to compute during a measurement."""

CEILINGS = "ceilings.json"


Rate = Annotated[float, Field(gt=0, le=1e100)]

Rating = Callable[[Callable[[], int]], float]
"""Measures work that returns how many env steps it did: env steps per second."""


class Ceiling(NamedTuple):
    """Env steps per second of each part alone, at the run's own batch sizes."""

    environment: Rate
    acting: Rate
    learning: Rate

    @property
    def serial(self) -> float:
        """What one after the other gives: 1 / (1/environment + 1/acting + 1/learning)."""
        return 1 / sum(1 / rate for rate in self)

    @property
    def limit(self) -> str:
        """The slowest part."""
        return min(zip(self, self._fields, strict=True))[1]


_FILE = TypeAdapter(dict[str, Ceiling])


def measure_ceiling(
    plan: RunPlan, seconds: float = SECONDS_PER_PART, of_windows: Callable[[list[float]], float] = max
) -> Ceiling:
    """Measure the ceiling of a job; takes three times ``seconds`` and the environments' start.

    Each part's rate is the best of its ``WINDOWS``, or what ``of_windows`` makes of them: another job takes cores for a
    while, and nothing makes a part faster than it is.
    """

    def rate(work: Callable[[], int]) -> float:
        return of_windows(_rates(work, seconds))

    with torch_threads(plan.machine.cores):
        slots = plan.slots()[0][0]
        task_ids = [plan.spec.task_of(int(slot)) for slot in slots]
        return Ceiling(
            _environment(plan, task_ids, rate),
            _acting(plan, len(slots), rate),
            _learning(plan, rate),
        )


def remember_ceiling(plan: RunPlan, ceiling: Ceiling, *, busy: bool) -> None:
    """Keep a ceiling for later runs; one that was measured on a ``busy`` machine never replaces a higher one."""
    file = cache_folder() / CEILINGS
    known, key = _known_ceilings(), _key(plan)
    former = cached_ceiling(plan)
    if busy and former is not None and former > ceiling.serial:
        return
    known[key] = ceiling
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps({key: each._asdict() for key, each in known.items()}, indent=1), encoding="utf-8")
    partial.replace(file)


def load_per_core() -> float:
    """Programs that want a core, per core, over the last minute: the load average of the whole machine."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def cached_ceiling(plan: RunPlan) -> float | None:
    """The serial ceiling measured earlier for the same job on this machine, in env steps/s."""
    known = _known_ceilings().get(_key(plan))
    return None if known is None else known.serial


def _known_ceilings() -> dict[str, Ceiling]:
    """What was measured so far; empty when the file is not there or is damaged: all of it can be measured again."""
    try:
        return _FILE.validate_json((cache_folder() / CEILINGS).read_bytes(), strict=True)
    except (OSError, ValidationError):
        return {}


def _key(plan: RunPlan) -> str:
    """Everything that the speeds depend on, as a short name."""
    config, machine = plan.config, plan.machine
    depends_on = {
        "algorithm": config.algorithm,
        "environment": config.environment,
        "algo": config.algo.model_dump(mode="json"),
        "env": config.env.model_dump(mode="json"),
        "actors": config.runtime.actors,
        "wrapper": config.wrapper,
        "machine": [machine.device, machine.actor_device, str(machine.precision.dtype), machine.cores],
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]


def _rates(work: Callable[[], int], seconds: float) -> list[float]:
    """Env steps per second of ``work``, which returns how many it did, in each of several windows.

    The first two calls are not counted; a window has one call at least.
    """
    work()
    work()
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while not rates or time.perf_counter() < end:
        done, started = 0, time.perf_counter()
        while done == 0 or time.perf_counter() - started < seconds / WINDOWS:
            done += work()
        rates.append(done / (time.perf_counter() - started))
    return rates


def _environment(plan: RunPlan, task_ids: list[int], rate: Rating) -> float:
    env = plan.factory.make(task_ids)
    generator = np.random.default_rng(0)
    try:
        observation = env.reset(list(range(len(task_ids)))).observation

        def step() -> int:
            nonlocal observation
            actions = random_actions(plan.spec.action, len(task_ids), generator, observation.get(ACTION_MASK))
            observation = env.step(actions).observation
            return len(task_ids)

        return rate(step)
    finally:
        env.close()


def _acting(plan: RunPlan, num_slots: int, rate: Rating) -> float:
    policy = plan.make_policy(explores=True)
    observation = {
        key: np.zeros((num_slots, *array.shape), array.dtype) for key, array in plan.spec.observation.items()
    }
    reward, action = np.zeros(num_slots, np.float32), plan.spec.action.none(num_slots)
    first, task_ids = np.zeros(num_slots, np.bool_), np.zeros(num_slots, np.int64)
    uniforms = np.full(action.shape, 0.5, np.float32)
    core = policy.initial_core_state(num_slots)
    inputs = ActorInput(observation, reward, action, first, task_ids, core, uniforms, np.arange(num_slots))

    def act() -> int:
        policy.act(inputs)
        return num_slots

    return rate(act)


def _learning(plan: RunPlan, rate: Rating) -> float:
    spec = plan.spec
    learner = plan.algorithm.make_learner(spec, plan.machine.device, plan.config.runtime.precision, 0, SINGLE_RANK)
    batch = random_batch(plan)

    def update() -> int:
        learner.update(batch, 0.0)
        return plan.env_steps_per_update

    return rate(update)


def random_batch(plan: RunPlan) -> Unroll[Array]:
    """A batch of the run's shape with random observations, for measurements."""
    spec = plan.spec
    size = plan.batch_size
    slots = np.arange(size)
    core = plan.make_policy(explores=True).initial_core_state(size)
    task_ids = np.array([spec.task_of(int(slot)) for slot in slots])
    batch = UnrollBuffer(
        spec, plan.algorithm.policy_outputs(spec), plan.config.algo.item_length, slots, task_ids, core
    ).unroll
    batch.on_turn[...] = True
    generator = np.random.default_rng(0)
    for array in batch.observation.values():
        array[...] = generator.random(array.shape) * (255 if array.dtype == np.uint8 else 1)
    return batch
