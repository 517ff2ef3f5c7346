"""What a replay stores of every step, and in which arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from machina.specs import ArraySpec, EnvSpec
from machina.types import OBSERVATION

BLOCK = 20
"""Frames that are compressed together: neighbours resemble one another, and one of them costs reading all."""

OLDEST_AGE = 255
"""Ages of entries are counted up to here: more than any stack of frames needs."""


class Layout(NamedTuple):
    """What a replay stores and what it hands out; can be sent to other processes."""

    spec: EnvSpec
    policy_outputs: Mapping[str, ArraySpec]
    """What policies leave in unrolls, see ``Algorithm.policy_outputs``."""
    core_shapes: tuple[tuple[int, ...], ...]
    """Of each array of the core state, without the batch axis; empty without a core."""
    unroll_length: int
    """T of the actors' unrolls."""
    window: int
    """W: steps of an item; what is drawn is an unroll of W + 1 entries."""
    every_step: bool
    """An item starts at every step that counts; else one at entry 0 of every stored unroll, with its core state."""
    compressed: bool
    """Image frames are kept in LZ4 blocks of ``BLOCK``."""
    whole_episodes: bool = False
    """With ``every_step``: a step can be drawn only when its episode has ended."""
    burn_in: int = 0
    """Steps at the start of an item that are not learned. Whole episodes are put in behind as many that are nothing
    (``behind_burn_in``), so that their first steps are learned as well."""

    @property
    def frames_before(self) -> int:
        """Frames of a stack that precede an entry's own."""
        return self.spec.frame_stack - 1

    @property
    def lead(self) -> int:
        """Entries that are stored before the first of an unroll that continues nothing: frames, previous action."""
        return max(self.frames_before, 1)

    @property
    def gap(self) -> int:
        """Positions that are left free where something else begins, so that each core state has a row of its own."""
        return 0 if self.every_step else self.unroll_length

    def columns(self) -> dict[str, ArraySpec]:
        """The arrays that are kept with an entry per step, by name."""
        flag, number = ArraySpec(shape=(), dtype="bool"), ArraySpec(shape=(), dtype="int32")
        return {
            **{f"observation/{key}": array for key, array in self.spec.stored_observation.items()},
            **{f"policy_outputs/{key}": array for key, array in self.policy_outputs.items()},
            "action": ArraySpec(shape=self.spec.action.shape, dtype=self.spec.action.dtype),
            "reward": ArraySpec(shape=(), dtype="float32"),
            **dict.fromkeys(FLAGS, flag),
            "task_id": number,
            "slot": number,
            "policy_version": ArraySpec(shape=(), dtype="int64"),
            "age": ArraySpec(shape=(), dtype="uint8"),
        }

    def in_blocks(self, name: str) -> bool:
        """Whether column ``name`` is compressed: pictures are."""
        array = self.columns()[name]
        is_picture = name == f"observation/{OBSERVATION}" and array.dtype == "uint8" and len(array.shape) >= 2
        return self.compressed and is_picture

    @property
    def shortest_lane(self) -> int:
        """Positions that a lane must have for an unroll's steps to be drawable until the next unroll comes."""
        return self.needed(self.unroll_length)

    def needed(self, unroll_length: int) -> int:
        """Positions that a lane must have to take unrolls of ``unroll_length`` steps."""
        steps = unroll_length + self.window + 2 * self.lead + 2 + self.gap
        return -(-steps // BLOCK) * BLOCK + BLOCK if self.compressed else steps


FLAGS = ("terminated", "truncated", "life_lost", "foreign")
"""The columns of bools."""
