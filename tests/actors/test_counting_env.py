"""The counting environment through the real actor, queue and learner.

Its entries are recognizable: entry k of a slot whose episodes last n steps shows step ``k % (n + 1)`` of episode
``k // (n + 1)``, where step 0 of a later episode comes from a reset step. A policy that counts as well makes what
it was given visible in the unroll: its core state and its previous action are its logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from actor_groups import as_tensors
from torch import Tensor

import machina
from machina.actors.slots import assign_slots
from machina.buffers.buffer import BufferSizes, Shards
from machina.buffers.queue import UnrollQueue
from machina.config import AlgorithmConfig, Config
from machina.envs.builders import parse_environment
from machina.envs.config import ToyConfig
from machina.interfaces import Learner, LearnerState, LearningFacts, Policy, Ranks
from machina.losses.alignment import aligned
from machina.metrics import read_metrics
from machina.registry import ALGORITHMS
from machina.specs import ArraySpec, EnvSpec
from machina.types import (
    NO_ACTION,
    ActorInput,
    ActorOutput,
    Array,
    CoreState,
    Learned,
    Unroll,
)

T = 4
BATCH = 5
SEEN = "seen"
"""The policy's output."""
PLACES = ("inline", "local")


class CountingPolicy:
    """Its core state counts the entries it answered since the episode's first; it acts as the step's parity says."""

    def __init__(self) -> None:
        self.policy_version = -1.0

    def initial_core_state(self, num_slots: int) -> CoreState:
        return (np.zeros((num_slots, 1), np.float32),)

    def act(self, inputs: ActorInput) -> ActorOutput:
        observation, reward, previous_action, first, task_id, core_state, uniforms, slots = inputs
        step = observation["observation"][:, 0]
        np.testing.assert_array_equal(reward, step)
        np.testing.assert_array_equal(first, step == 0)
        assert not task_id.any()
        assert uniforms.shape == slots.shape == step.shape
        seen = np.stack([core_state[0][:, 0], previous_action.astype(np.float32)], axis=1)
        return ActorOutput((step % 2).astype(np.int64), {SEEN: seen}, (core_state[0] + 1,))

    def load_parameters(self, parameters: Tensor, done: float) -> None:
        assert done >= 0
        self.policy_version = float(parameters[0])

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.load_parameters(tensors["updates"], done=1.0)


class RecordingLearner:
    """Keeps every batch; its one parameter is the number of updates."""

    def __init__(self, batches: list[Unroll[Array]]) -> None:
        self._batches = batches
        self._updates = 0

    def update(self, batch: Unroll[Array], done: float) -> Learned:
        assert done >= 0
        self._batches.append(batch)
        self._updates += 1
        return Learned({"learner/seen": 1.0})

    def flat_parameters(self) -> Tensor:
        return torch.full((1,), float(self._updates))

    def state(self) -> LearnerState:
        return LearnerState({"model": {"updates": self.flat_parameters()}}, {})

    def load_state(self, state: LearnerState) -> None:
        self._updates = int(state.tensors["model"]["updates"])

    def load_initial(self, tensors: Mapping[str, Tensor], with_value: bool) -> None:
        raise NotImplementedError(f"{sorted(tensors)}, {with_value}")


class RecordingAlgorithm:
    """Hands out the two above."""

    def __init__(self, config: Config, batches: list[Unroll[Array]]) -> None:
        self.config = config
        self._batches = batches

    def make_policy(self, spec: EnvSpec, device: str, precision: str, *, explores: bool, num_slots: int) -> Policy:
        assert num_slots > 0 or not explores
        assert (spec.action.num_parameters, device, precision) == (2, "cpu", "auto")
        return CountingPolicy()

    def make_learner(self, spec: EnvSpec, device: str, precision: str, seed: int, ranks: Ranks) -> Learner:
        assert (spec.num_tasks, ranks.size) == (1, 1)
        assert (device, precision) == ("cpu", "auto")
        assert seed > 0
        return RecordingLearner(self._batches)

    def make_buffer(self, spec: EnvSpec, sizes: BufferSizes, shards: Shards) -> UnrollQueue:
        assert (sizes.unroll_length, sizes.num_slots) == (T, spec.num_slots(sizes.num_slots))
        assert hasattr(shards, "start")
        return UnrollQueue(sizes)

    def buffer_bytes(self, spec: EnvSpec) -> int:
        assert spec.num_tasks == 1
        return 0

    def policy_outputs(self, spec: EnvSpec) -> dict[str, ArraySpec]:
        assert spec.num_tasks == 1
        return {SEEN: ArraySpec(shape=(2,), dtype="float32")}

    def describe(self, spec: EnvSpec) -> LearningFacts:
        return LearningFacts(f"counts {spec.name}", "recorded")


@pytest.fixture
def batches() -> Iterator[list[Unroll[Array]]]:
    """What the learner of the algorithm ``recording`` was given."""
    recorded: list[Unroll[Array]] = []
    machina.register_algorithm(
        "recording", "keeps every batch", AlgorithmConfig, lambda config: RecordingAlgorithm(config, recorded)
    )
    yield recorded
    del ALGORITHMS["recording"]


def train(place: str, actors: int, envs: int, updates: int, runs_dir: Path, **options: Any) -> Path:
    """A whole run over the counting environment."""
    return machina.train(
        "recording",
        "counting",
        name="run",
        runs_dir=runs_dir,
        place=place,
        actors=actors,
        envs_per_task=envs,
        unroll_length=T,
        batch_size=BATCH,
        total_frames=updates * BATCH * T,
        actor_threads=1,
        learner_threads=1,
        **options,
    ).path


def by_slot(batches: list[Unroll[Array]]) -> dict[int, list[tuple[Unroll[Array], int]]]:
    """Every slot's unrolls in the order they were learned: (batch, column)."""
    columns: dict[int, list[tuple[Unroll[Array], int]]] = {}
    for batch in batches:
        for column, slot in enumerate(batch.slot):
            columns.setdefault(int(slot), []).append((batch, column))
    return columns


def episode_lengths(actors: int, envs: int) -> dict[int, int]:
    """Slot to length: the environment numbers its slots within a group."""
    groups = [
        group
        for actor in assign_slots(parse_environment("counting", ToyConfig()).spec, envs, actors)
        for group in actor
    ]
    return {int(slot): 3 + place % 5 for group in groups for place, slot in enumerate(group)}


def check_slot(unrolls: list[tuple[Unroll[Array], int]], length: int) -> None:
    """Entry k = index of the unroll x T + t is what arithmetic says, for every k."""
    for index, (batch, column) in enumerate(unrolls):
        k = np.arange(index * T, index * T + T + 1)
        step, episode = k % (length + 1), k // (length + 1)
        observation = batch.observation["observation"][:, column]
        np.testing.assert_array_equal(observation, np.stack([step, episode], axis=1))
        np.testing.assert_array_equal(batch.reward[:, column], step)
        ended = step == length
        np.testing.assert_array_equal(batch.terminated[:, column], ended & (episode % 2 == 0))
        np.testing.assert_array_equal(batch.truncated[:, column], ended & (episode % 2 == 1))
        assert not batch.life_lost[:, column].any()

        previous_action = np.where(step == 0, NO_ACTION, (step - 1) % 2)
        seen_count, seen_action = batch.policy_outputs[SEEN][:T, column].T
        np.testing.assert_array_equal(seen_count, step[:T], "the core state restarts with the episode")
        np.testing.assert_array_equal(seen_action, previous_action[:T])
        np.testing.assert_array_equal(batch.action[:T, column], step[:T] % 2)
        assert batch.action[T, column] == 0
        assert not batch.policy_outputs[SEEN][T, column].any(), "the last entry is answered by the next unroll"
        assert batch.core_state[0][column, 0] == step[0]
        assert batch.previous_action[column] == previous_action[0]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("actors", "envs"), [(1, 1), (1, 7), (2, 6), (3, 11)])
def test_no_step_is_lost_doubled_or_shifted(
    place: str, actors: int, envs: int, batches: list[Unroll[Array]], tmp_path: Path
) -> None:
    # As threads, actors begin when their environments stand; on a busy machine the first is far ahead of the last.
    updates = 60 if place == "inline" else 300
    train(place, actors, envs, updates, tmp_path)
    assert len(batches) == updates
    slots = by_slot(batches)
    assert slots.keys() == set(range(envs))
    lengths = episode_lengths(actors, envs)
    for slot, unrolls in slots.items():
        check_slot(unrolls, lengths[slot])
    counts = [len(unrolls) for unrolls in slots.values()]
    if actors == 1 or place == "inline":
        assert max(counts) - min(counts) <= 1, "the slots take turns"


@pytest.mark.parametrize("place", PLACES)
def test_reset_steps_are_masked_and_termination_is_a_zero_discount(
    place: str, batches: list[Unroll[Array]], tmp_path: Path
) -> None:
    train(place, 1, 5, 20, tmp_path)
    for batch in batches:
        steps = aligned(as_tensors(batch))
        step, episode = batch.observation["observation"].transpose(2, 0, 1)
        np.testing.assert_array_equal(~steps.mask.numpy(), step[1:] == 0, "a reset step leads to step 0")
        np.testing.assert_array_equal(steps.first.numpy(), step == 0)
        np.testing.assert_array_equal(steps.rewards.numpy(), step[1:])
        ends = batch.terminated[1:]
        assert (episode[1:][ends] % 2 == 0).all()
        np.testing.assert_array_equal(steps.continues.numpy(), ~ends)


@pytest.mark.parametrize("place", PLACES)
def test_versions_and_episodes_are_reported(place: str, batches: list[Unroll[Array]], tmp_path: Path) -> None:
    envs, updates = 5, 40
    path = train(place, 1, envs, updates, tmp_path, log_seconds=1e-6)
    for update, batch in enumerate(batches):
        assert (batch.policy_version <= update).all()
        if place == "inline":
            assert (batch.policy_version >= update - 1 - envs // BATCH).all()
    metrics = read_metrics(path)
    last = metrics[-1]
    # n (n + 1) / 2 for n = 3, 4, 5 in the first group and 3, 4 in the second: between 6 and 15.
    assert 6 <= (last["episode_return/counting"] or 0) <= 15
    assert 3 <= (last["episode_length/counting"] or 0) <= 5
    assert (last["episodes/counting"] or 0) > 0
    assert last["env_steps"] == updates * BATCH * T
    for line in metrics:
        assert line["queue/accepted"] == (line["queue/learned"] or 0) + (line["queue/queued"] or 0)
    assert last["queue/learned"] == updates * BATCH


def test_a_run_of_an_algorithm_of_your_own_continues(batches: list[Unroll[Array]], tmp_path: Path) -> None:
    """What its learner keeps in addition to tensors is its own: here nothing."""
    run = train("inline", 1, 2, updates=2, runs_dir=tmp_path)
    assert machina.resume(run, total_frames=5 * BATCH * T).updates == 5
    assert len(batches) == 5
    machina.load_policy(run)
