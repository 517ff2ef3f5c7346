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
