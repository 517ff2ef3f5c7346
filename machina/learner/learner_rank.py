"""One learner rank: what runs around the learner, wherever the place puts it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from machina.buffers.buffer import Part, joined
from machina.interfaces import Learner, LearnerState
from machina.types import Array, Learned, Unroll

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

COLLECTIVE_TIMEOUT_S = 120.0
"""How long a rank waits for the others in a sum before it gives them up."""


class RankSetup(NamedTuple):
    """What a learner rank is built from; travels pickled."""

    make_learner: Callable[[int, int, str | None], Learner]
    """Of rank, number of ranks and their meeting point (``tcp://HOST:PORT``; None for a single rank)."""
    rank: int
    size: int
    rendezvous: str | None


class LearnerRank:
    """The learner of one rank, and the batch that it could not learn from."""

    def __init__(self, setup: RankSetup) -> None:
        self._learner = setup.make_learner(setup.rank, setup.size, setup.rendezvous)
        self._publishes = setup.rank == 0
        self._skipped: Unroll[Array] | None = None

    def update(self, parts: Sequence[Part], done: float, publishes: bool) -> tuple[Learned, Tensor | None]:
        """One update from this rank's parts; what it came to, and on rank 0 the new parameters if they are wanted."""
        return self.update_from(joined(parts), done, publishes)

    def update_from(self, unroll: Unroll[Array], done: float, publishes: bool) -> tuple[Learned, Tensor | None]:
        """The same from unrolls that are joined already."""
        learned = self._learner.update(unroll, done)
        self._skipped = unroll if learned.skipped else None
        return learned, self.parameters()[1] if publishes else None

    def parameters(self) -> tuple[None, Tensor | None]:
        """The parameters as they are, in the form in which ``update`` returns them."""
        return None, self._learner.flat_parameters() if self._publishes else None

    def state(self) -> LearnerState:
        """Everything the learner needs to continue."""
        return self._learner.state()

    def load_state(self, state: LearnerState) -> None:
        """Continue from ``state``."""
        self._learner.load_state(state)

    def load_initial(self, tensors: Mapping[str, Tensor], with_value: bool) -> None:
        """Start from another run's model."""
        self._learner.load_initial(tensors, with_value)

    def skipped(self) -> Unroll[Array] | None:
        """This rank's share of the last batch, when its update was skipped for NaN."""
        return self._skipped


def free_port() -> int:
    """A TCP port that nobody uses now."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])
