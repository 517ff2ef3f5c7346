"""The driver's records of actors in other processes, living and lost."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from machina.actors.actor import Fault
from machina.buffers.parameters import PublishedParameters
from machina.checkpoint.status import ActorStatus
from machina.types import IntArray


class RemoteActor:
    """The driver's record of one actor."""

    def __init__(self, index: int, slots: list[IntArray], restarts: int, handle: Any) -> None:
        self.index = index
        self.slots = slots
        self.restarts = restarts
        self.handle = handle
        self.node = self.node_id = ""
        self.state = "starting"
        self.num_slots = sum(len(group) for group in slots)
        """Of all groups."""
        self.pending: Any = handle.start.remote()
        """Reference to the report that is awaited; None while the actor is idle."""
        self.unroll: Any = None
        """Reference to what the round under way will give."""
        self.rounds = 0
        self.env_steps = 0
        self.seconds: dict[str, float] = {}
        self.speed = 0.0
        self.slots_started = 0
        self.heard_at = self.moved_at = time.monotonic()
        self.progress_made = (0, -1)
        self.watched: Any = None
        """Reference to an answer of ``life``."""

    def ask(self, parameters: PublishedParameters) -> None:
        """Ask for a round with these parameters."""
        self.pending, self.unroll = self.handle.run_round.remote(*parameters)
        self.state = "collecting"

    def status(self) -> ActorStatus:
        """What `machina status` shows."""
        heard = time.monotonic() - self.heard_at
        return ActorStatus(
            self.index, self.node, self.state, self.num_slots, self.restarts, heard, self.env_steps, self.speed
        )


class Death(NamedTuple):
    """A lost actor whose node's fate is not known yet."""

    at: float
    remote: RemoteActor
    fault: Fault
    living: set[str]
    """Ids of the nodes that Ray took for alive then."""
