"""What the two ranks of ``test_ranks`` do; imported by their processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from typing import Any

import torch
from rank_processes import PATIENCE_S
from torch import Tensor

from machina.errors import RanksBrokenError
from machina.learner.sums import join_ranks

CPU = torch.device("cpu")
DEADLINE_S = 2.0


def tensors_of(rank: int) -> list[Tensor]:
    """Several dtypes, shapes and memory layouts."""
    generator = torch.Generator().manual_seed(rank)
    image = torch.randn(2, 3, 4, 5, generator=generator)
    return [
        torch.randn(7, generator=generator),
        torch.randn(3, 2, generator=generator, dtype=torch.float64),
        image.to(memory_format=torch.channels_last) if rank else image,
        torch.tensor(2.5 + rank),
        torch.zeros(0, 4),
        torch.tensor([2**53 + rank, 1]),
        torch.randn(5, 2, generator=generator).t(),
    ]


def failure(call: Callable[[], object]) -> tuple[str, float]:
    """What a call says that must fail, and after how many seconds."""
    started = time.monotonic()
    try:
        call()
    except RanksBrokenError as error:
        return str(error), time.monotonic() - started
    return "nothing was raised", time.monotonic() - started


def sum_and_suffer(rank: int, rendezvous: list[str], went_on: Event) -> dict[str, Any]:
    """A good group, one whose second rank hangs, two that never meet, and one whose second rank is killed."""
    seen: dict[str, Any] = {}
    ranks = join_ranks(rank, 2, rendezvous[0], CPU, PATIENCE_S)
    seen["ranks"] = (ranks.rank, ranks.size)
    seen["sums"] = tensors_of(rank)
    ranks.add_up(seen["sums"])
    ranks.close()
    ranks.close()

    hung = join_ranks(rank, 2, rendezvous[1], CPU, DEADLINE_S)
    if rank == 0:
        seen["hung"] = failure(lambda: hung.add_up([torch.ones(3)]))
        went_on.set()
    assert went_on.wait(PATIENCE_S)
    hung.close()

    # Rank 1 waits where nobody listens, rank 0 where nobody comes.
    seen["absent"] = failure(lambda: join_ranks(rank, 2, rendezvous[2 + rank], CPU, DEADLINE_S / 2))

    killed = join_ranks(rank, 2, rendezvous[4], CPU, PATIENCE_S)
    hung.close()  # of a former group: the new one stays
    killed.add_up([torch.ones(3)])
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    seen["killed"] = failure(lambda: killed.add_up([torch.ones(3)]))
    killed.close()
    return seen
