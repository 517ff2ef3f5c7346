"""Random streams: one per slot and purpose, all derived from the run's seed."""

from __future__ import annotations

import enum

import numpy as np

from machina.types import FloatArray, IntArray

BLOCK = 256


@enum.unique
class Stream(enum.IntEnum):
    """What a random stream is for, as a number in addition to the seed; changing it changes every run."""

    ACTIONS = 1
    """Of the policies that collect data, and of single players at play."""
    ENVIRONMENTS = 2
    EVALUATION = 3
    MATCH = 4
    RATING_GAMES = 5
    SEATING = 6
    """Draws of opponents."""
    MINIBATCHES = 7
    REPLAY = 8
    """Draws of what is learned from a replay."""
    NOISE = 9
    """Of noisy layers, in learners."""
    RECORDING = 10
    """Resets of episodes that are recorded, and what scripts draw."""


class SlotStreams:
    """Uniform numbers for action sampling, one independent stream per slot, ``shape`` numbers at a time.

    Number n of a slot depends on the seed, the slot's index in the whole run and n alone, so an
    unroll is the same wherever its actor runs, and the whole state is the count of numbers drawn.
    """

    def __init__(self, seed: int, slots: IntArray, shape: tuple[int, ...], drawn: int = 0) -> None:
        self._seed = seed
        self._slots = slots
        self._shape = shape
        self.drawn = drawn
        self._block = self._make_block(drawn // BLOCK)

    def next(self) -> FloatArray:
        """Numbers in [0, 1), ``[B, *shape]``."""
        column = self.drawn % BLOCK
        if column == 0:
            self._block = self._make_block(self.drawn // BLOCK)
        self.drawn += 1
        return self._block[:, column]

    def _make_block(self, index: int) -> FloatArray:
        rows = [
            np.random.default_rng([self._seed, Stream.ACTIONS, int(slot), index]).random(
                (BLOCK, *self._shape), np.float32
            )
            for slot in self._slots
        ]
        return np.stack(rows)


def env_seeds(seed: int, slots: IntArray, restarts: int) -> list[int]:
    """One environment seed per slot; another set after every replacement of the environment."""
    sequences = (np.random.SeedSequence([seed, Stream.ENVIRONMENTS, int(slot), restarts]) for slot in slots)
    return [int(sequence.generate_state(1)[0] >> 1) for sequence in sequences]
