"""Episodes with known content."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from machina.demonstrations import EpisodeHeader, EpisodeRecorder, Who, write_episode
from machina.specs import ActionSpec, ArraySpec, EnvSpec, discrete
from machina.types import OBSERVATION, Array, StepResult, single_agent_step

PLAIN = EnvSpec(
    name="plain",
    tasks=("plain",),
    observation={
        OBSERVATION: ArraySpec(shape=(3,), dtype="float32"),
        "mask/left": ArraySpec(shape=(2, 2), dtype="uint8"),
    },
    action=ActionSpec(kind="continuous", low=(-np.inf, 0.0), high=(np.inf, 5.0)),
    protocol={"max_episode_steps": 30},
)
"""Two arrays, one of them within a dictionary; numbers, one of which has no bounds."""

STACKED = EnvSpec(
    name="stacked",
    tasks=("stacked",),
    observation={OBSERVATION: ArraySpec(shape=(4, 6, 5), dtype="uint8")},
    action=discrete(3),
    frame_stack=4,
    protocol={"sticky_actions": 0.25, "frame_skip": 4, "max_pool": True},
)
"""Image stacks that shift by one frame per step."""

PLAYERS = {Who.PERSON: "person", Who.POLICY: "runs/one", Who.SCRIPT: "random"}


class Played(NamedTuple):
    """An episode as it was played."""

    recorder: EpisodeRecorder
    entries: list[StepResult]
    """With whole stacks."""
    actions: list[Array]
    pictures: list[Array]


def entry(observation: dict[str, Array], reward: float = 0.0, *, end: str = "", life_lost: bool = False) -> StepResult:
    """An entry of one slot; ``end`` is "", "terminated" or "truncated"."""
    return single_agent_step(
        {key: array[None] for key, array in observation.items()},
        np.full(1, reward, np.float32),
        np.array([end == "terminated"]),
        np.array([end == "truncated"]),
        np.array([life_lost]),
    )


def played(spec: EnvSpec, length: int, seed: int = 3, end: str = "terminated", pictures: bool = False) -> Played:
    """A random episode in a recorder."""
    generator = np.random.default_rng([seed, length])
    stack = np.zeros(spec.observation[OBSERVATION].shape, np.uint8)

    def observation() -> dict[str, Array]:
        nonlocal stack
        if not spec.stores_frames_once:
            return {
                key: (255 * generator.random(each.shape)).astype(each.dtype) for key, each in spec.observation.items()
            }
        stack = np.concatenate([stack[1:], generator.integers(0, 256, (1, *stack.shape[1:]), np.uint8)])
        return {OBSERVATION: stack}

    def picture() -> Array | None:
        if pictures:
            drawn.append(generator.integers(0, 256, (7, 9, 3), np.uint8))
        return drawn[-1] if pictures else None

    drawn: list[Array] = []
    entries, actions = [entry(observation())], []
    recorder = EpisodeRecorder(spec, seed, entries[0], picture())
    for step in range(length):
        action = spec.action.none(1) + 1
        action = (action + generator.integers(0, 3, action.shape)).astype(spec.action.dtype)
        last = step == length - 1
        entries.append(entry(observation(), generator.random(), end=end if last else "", life_lost=step == 2))
        actions.append(action)
        recorder.add(action, Who(step % 3), entries[-1], picture())
    return Played(recorder, entries, actions, drawn)


def write(folder: Path, spec: EnvSpec, length: int, seed: int = 3, end: str = "terminated") -> Path:
    """A random episode in a set; its file."""
    recorder = played(spec, length, seed, end).recorder
    return write_episode(folder, header_of(recorder), recorder.arrays())


def header_of(recorder: EpisodeRecorder) -> EpisodeHeader:
    """As a recording makes it."""
    return recorder.header(PLAYERS, pictures_per_s=30)
