"""The replay of an algorithm: what it stores, how it is drawn from, and how much memory it takes."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

from machina.algorithms.replaying.config import PriorityKind, ReplayingConfig
from machina.buffers.buffer import BufferSizes, Shards
from machina.buffers.layout import Layout
from machina.buffers.priorities import PriorityRule
from machina.buffers.replay import Replay, ReplayPlan
from machina.buffers.replay_shard import AGENT, DEMONSTRATIONS, EPISODES, InitialErrors, MemorySetup, ShardSetup
from machina.buffers.replay_size import store_bytes
from machina.buffers.unrolls import behind_burn_in
from machina.demonstrations import DemonstrationSet, check_suits, load_set
from machina.errors import UserError
from machina.specs import ArraySpec, EnvSpec
from machina.types import Array, Unroll


def layout_of(config: ReplayingConfig, spec: EnvSpec, policy_outputs: Mapping[str, ArraySpec]) -> Layout:
    """What the replay stores of an environment, and what an item is.

    With a core state items begin where one is stored, else at every env step.
    """
    size = config.network.lstm_size
    return Layout(
        spec=spec,
        policy_outputs=policy_outputs,
        core_shapes=((size,), (size,)) if size else (),
        unroll_length=config.unroll_length,
        window=config.item_length,
        every_step=not size,
        compressed=config.compress_frames and spec.stores_frames_once,
        whole_episodes=config.whole_episodes,
        burn_in=config.item_length - config.item_steps if size else 0,
    )


def replay_bytes(config: ReplayingConfig, layout: Layout, demonstrations: DemonstrationSet | None) -> int:
    """Memory of all memories when they are full; the most that it may be where frames are compressed."""
    steps = config.replay_capacity + _episodes_capacity(config, layout, config.episode_memory)
    if demonstrations is not None:
        steps += _demonstrations_capacity(layout, demonstrations)
    return store_bytes(layout, steps)


def _episodes_capacity(config: ReplayingConfig, layout: Layout, episodes: int) -> int:
    """Env steps for the best episodes, each in a lane of its own."""
    return episodes * layout.needed(layout.burn_in + config.episode_memory_steps)


def _demonstrations_capacity(layout: Layout, found: DemonstrationSet) -> int:
    """Env steps for all of them in one lane."""
    return sum(layout.needed(layout.burn_in + episode.header.length) for episode in found.episodes)


def make_replay(
    config: ReplayingConfig,
    layout: Layout,
    demonstrations: DemonstrationSet | None,
    initial_errors: InitialErrors | None,
    sizes: BufferSizes,
    shards: Shards,
) -> Replay:
    """The buffer of a run.

    Raises:
        UserError: it is too small for so many environments, or there are more shards than environments.
    """
    if sizes.max_policy_lag is not None:
        raise UserError(
            f"max_policy_lag={sizes.max_policy_lag}: what lies in a replay is older as a rule; leave it out, or use pqn"
        )
    count = config.replay_shards
    if count > sizes.num_slots:
        raise UserError(
            f"replay_shards={count}: only {sizes.num_slots} environments to share out; use at most {sizes.num_slots}"
        )
    lanes = -(-sizes.num_slots // count)
    capacity = config.replay_capacity // count
    least = layout.shortest_lane
    if capacity // lanes < least:
        raise UserError(
            f"replay_capacity={config.replay_capacity}: {capacity // lanes} env steps for each of {sizes.num_slots} "
            f"environments, and an item needs {least}; use at least {least * lanes * count}"
        )
    memories = {AGENT: MemorySetup(layout, capacity, lanes, _rule(config, config.priority), initial_errors)}
    if config.episode_memory:
        memories[EPISODES] = _episodes(config, layout, count, initial_errors)
    setups = [ShardSetup(memories, None, config.episode_memory_steps) for _ in range(count)]
    if demonstrations is not None:
        setups[0] = _with_demonstrations(config, setups[0], layout, demonstrations)
    plan = ReplayPlan(
        ratio=config.replay_ratio,
        sample_steps=config.item_steps,
        learning_starts=config.learning_starts,
        exponent=0.0 if config.priority == "none" else config.importance_sampling_exponent,
        exponent_final=0.0 if config.priority == "none" else config.importance_sampling_exponent_final,
        shares=config.shares,
        pretraining_updates=config.pretraining_updates,
    )
    return Replay(plan, sizes, setups, shards)


def _rule(config: ReplayingConfig, kind: PriorityKind | None) -> PriorityRule:
    return PriorityRule(kind or config.priority, config.priority_exponent, config.priority_epsilon)


def _episodes(
    config: ReplayingConfig, layout: Layout, shards: int, initial_errors: InitialErrors | None
) -> MemorySetup:
    """A lane for each of the best episodes that a shard keeps."""
    lanes = -(-config.episode_memory // shards)
    capacity = _episodes_capacity(config, layout, lanes)
    return MemorySetup(layout, capacity, lanes, _rule(config, config.episode_priority), initial_errors)


def _with_demonstrations(
    config: ReplayingConfig, setup: ShardSetup, layout: Layout, demonstrations: DemonstrationSet
) -> ShardSetup:
    """All in one lane, one after the other."""
    check_suits(demonstrations, layout.spec)
    memory = MemorySetup(
        layout, _demonstrations_capacity(layout, demonstrations), 1, _rule(config, config.demo_priority), None
    )
    read = functools.partial(_unrolls, demonstrations.folder, layout)
    return setup._replace(memories={**setup.memories, DEMONSTRATIONS: memory}, demonstrations=read)


def _unrolls(folder: Path, layout: Layout) -> Iterator[Unroll[Array]]:
    for episode in load_set(folder).episodes:
        unrolls = episode.unrolls(layout.policy_outputs, layout.core_shapes, layout.unroll_length)
        yield from behind_burn_in(unrolls, layout.burn_in)
