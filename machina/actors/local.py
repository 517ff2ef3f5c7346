"""The place ``local``: actor threads alongside the learner, in one process."""

from __future__ import annotations

import threading
import time

from machina.actors.actor import Actor, Fault
from machina.actors.actor_builder import ActorSetup
from machina.actors.actor_group import InProcessActors
from machina.actors.slot_group import COUNTERS
from machina.actors.stepping import Stepper, ThreadStepper
from machina.buffers.buffer import Batch, Buffer, BufferClosedError
from machina.buffers.parameters import ParameterStore, PublishedParameters
from machina.config import RuntimeConfig
from machina.errors import RunFailedError, UserError, stopped
from machina.hardware import yield_to_learner
from machina.interfaces import SlotEnv
from machina.types import Array, IntArray

LOOK_S = 0.2
"""How often an actor looks in the middle of a round whether the actors stop; a round of long unrolls takes minutes."""


class LocalActors(InProcessActors):
    """One thread per actor, one more per group of environments; the learner stays in the caller's."""

    def __init__(
        self,
        setup: ActorSetup,
        runtime: RuntimeConfig,
        slots: list[list[IntArray]],
        buffer: Buffer,
        store: ParameterStore,
    ) -> None:
        def make_stepper(env: SlotEnv) -> Stepper:
            return ThreadStepper(env, lambda message: self._note_fault(Fault(message)))

        super().__init__(setup, runtime, slots, buffer, store, make_stepper, in_order=False)
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._promised = 0
        """Unrolls of the rounds under way."""
        self._threads = [
            threading.Thread(target=self._run_actor, args=(own,), name=f"actor {index}", daemon=True)
            for index, own in enumerate(slots)
        ]

    def start(self, state: dict[str, Array]) -> None:
        """Start the actors, which build their environments in their own threads."""
        self._initial = state
        for thread in self._threads:
            thread.start()

    def _run_actor(self, slots: list[IntArray]) -> None:
        """An actor's thread: rounds until the actors stop; whatever it raises stops the run."""
        import torch

        torch.set_num_threads(self._setup.torch_threads)
        if self._setup.yields:
            yield_to_learner()
        try:
            actor = self._builder.build(slots, self._initial, self._store.latest().opponents)
            self._actors.append(actor)
            try:
                while not self._stopping.is_set():
                    parameters = self._parameters_for(actor)
                    if parameters is not None:
                        while not actor.run_round(parameters, time.monotonic() + LOOK_S):
                            if self._stopping.is_set():
                                return
                        with self._lock:
                            self._promised -= actor.num_slots
            finally:
                actor.close()
        except BufferClosedError:
            pass
        except BaseException as error:
            self._failure = self._failure or error

    def _parameters_for(self, actor: Actor) -> PublishedParameters | None:
        """What an actor's next round is played with; None when it is not to begin yet."""
        parameters = None
        if self._runtime.lock_step:
            parameters = self._store.wait_for(actor.rounds + 1, timeout_s=0.2)
        with self._lock:
            if not self._runtime.lock_step and self._buffer.admits(actor.num_slots, self._promised, self.total_slots):
                parameters = self._store.latest()
            if parameters is not None:
                self._promised += actor.num_slots
        if parameters is None:
            self._stopping.wait(0.0005)
        return parameters

    def next_batch(self, updates: int, timeout_s: float) -> Batch | None:
        """The next batch, or None after ``timeout_s``.

        Raises:
            UserError, RunFailedError: an actor stopped; the cause.
        """
        if self._failure is not None:
            self._raise_failure(self._failure)
        if self._runtime.lock_step and not self._round_is_complete():
            self._stopping.wait(0.0005)
            return None
        return self._buffer.take(updates, timeout_s)

    def _raise_failure(self, failure: BaseException) -> None:
        if isinstance(failure, UserError | RunFailedError):
            raise failure
        raise stopped("an actor", failure) from failure

    def state(self) -> dict[str, Array]:
        """Counters that keep the random streams from repeating; episodes restart on resume."""
        # What a former session left stands in for actors that are not built yet.
        state = {key: array for key, array in self._initial.items() if key.endswith(COUNTERS)}
        for actor in self._actors:
            state |= actor.counters()
        return state

    def unrolls_at_hand(self) -> int:
        """Those that wait for the learner, and the one that every slot fills."""
        return self._buffer.num_queued + self.total_slots

    def close(self) -> None:
        """Stop the actors and close the environments; a thread that is stuck is left behind."""
        self._stopping.set()
        self._buffer.close()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=10)
