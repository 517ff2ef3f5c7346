"""Which steps of a batch make each minibatch; the same on one learner rank and on several."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from machina.interfaces import Ranks
from machina.streams import Stream


class Share(NamedTuple):
    """This rank's slots among those of the whole batch."""

    num_slots: int
    """Of the whole batch."""
    first: int
    own: int


def share_of(own: int, ranks: Ranks, device: torch.device) -> Share:
    """Where this rank's ``own`` slots stand in the whole batch.

    Raises:
        RanksBrokenError: another rank is gone.
    """
    if ranks.size == 1:
        return Share(own, 0, own)
    counts = torch.zeros(ranks.size, dtype=torch.float64, device=device)
    counts[ranks.rank] = own
    ranks.add_up([counts])
    sizes = [int(count) for count in counts.tolist()]
    return Share(sum(sizes), sum(sizes[: ranks.rank]), own)


def minibatches(
    share: Share, unroll_length: int, epochs: int, parts: int, whole_slots: bool, seed: int, update: int
) -> Iterator[Tensor]:
    """This rank's items of every minibatch, epoch by epoch, int64 on the CPU.

    The whole batch is reshuffled for each epoch from a stream of the update's own, so that ranks agree, and a
    resumed run continues in the same way. Items are steps as ``t * share.own + slot``, or slots if ``whole_slots``: a
    recurrent network reads the steps of a slot in order.
    """
    generator = np.random.default_rng([seed, Stream.MINIBATCHES, update])
    length = 1 if whole_slots else unroll_length
    for _ in range(epochs):
        for part in np.array_split(generator.permutation(share.num_slots * length), parts):
            slot, t = np.divmod(part, length)
            slot -= share.first
            mine = (slot >= 0) & (slot < share.own)
            yield torch.from_numpy(t[mine] * share.own + slot[mine])


CPU_CHUNK_BYTES = 256 * 4 * 84 * 84
"""Observations that go through the network at once on a CPU, 256 of Atari; more fall out of its caches (see IMPALA's
learner)."""

LEAST_ENTRY_BYTES = 256
"""An entry counts as this much at least: a hidden layer of 64 floats needs it."""


def chunk_items(device: torch.device, observation_bytes: int, entries: int) -> int:
    """How many items of ``entries`` entries each go through the network at once."""
    entry_bytes = max(LEAST_ENTRY_BYTES, observation_bytes)
    return max(1, CPU_CHUNK_BYTES // (entries * entry_bytes)) if device.type == "cpu" else 2**31


def flat_steps(slots: Tensor, num_slots: int, num_samples: int) -> Tensor:
    """Indices of all steps of these slots among samples in the order ``t * num_slots + slot``, time-major."""
    first_of_step = torch.arange(0, num_samples, max(1, num_slots), device=slots.device)
    return (first_of_step[:, None] + slots[None]).flatten()
