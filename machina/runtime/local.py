"""The place ``local``: actor threads beside the learner, in one process."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable

from machina.config import RuntimeConfig
from machina.errors import RunFailedError, UserError
from machina.interfaces import EnvFactory, Policy
from machina.runtime.actor import Fault
from machina.runtime.group import COUNTERS
from machina.runtime.parameters import PublishedParameters
from machina.runtime.plane import Plane, PlaneConfig, group_key, queue_capacity
from machina.runtime.queue import QueueClosedError
from machina.runtime.stepping import ThreadStepper
from machina.types import Array, Unroll


class LocalPlane(Plane):
    """One thread per actor, one more per group of environments; the learner stays in the caller's."""

    def __init__(
        self, factory: EnvFactory, make_policy: Callable[[], Policy], runtime: RuntimeConfig, config: PlaneConfig
    ) -> None:
        super().__init__(
            factory,
            make_policy,
            runtime,
            config,
            make_stepper=lambda env: ThreadStepper(env, lambda message: self._note_fault(Fault(message, 0))),
            capacity=queue_capacity(factory.spec.num_tasks, runtime, config),
        )
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._run_actor, args=(index,), name=f"actor {index}", daemon=True)
            for index in range(runtime.actors)
        ]

    def start(self, state: dict[str, Array]) -> None:
        """Start the actors, which build their environments in their own threads."""
        self._initial = state
        for thread in self._threads:
            thread.start()

    def _run_actor(self, index: int) -> None:
        """An actor's thread: rounds until the plane stops; whatever it raises stops the run."""
        import torch

        torch.set_num_threads(self._config.actor_threads)
        try:
            actor = self._make_actor(index)
            self._actors.append(actor)
            try:
                while not self._stopping.is_set():
                    parameters = self._parameters_for(actor.rounds)
                    if parameters is not None:
                        actor.run_round(parameters)
            finally:
                actor.close()
        except QueueClosedError:
            pass
        except BaseException as error:
            self._failure = self._failure or error

    def _parameters_for(self, rounds: int) -> PublishedParameters | None:
        if self._runtime.lock_step:
            return self.store.wait_for(rounds + 1, timeout_s=0.2)
        return self.store.latest()

    def next_batch(self, timeout_s: float) -> Unroll[Array] | None:
        """The next batch, or None after ``timeout_s``.

        Raises:
            UserError, RunFailedError: an actor stopped; the cause.
        """
        if self._failure is not None:
            self._raise_failure(self._failure)
        if self._runtime.lock_step and not self._round_is_complete():
            self._stopping.wait(0.0005)
            return None
        return self.queue.get(self._config.batch_size, timeout_s)

    def _round_is_complete(self) -> bool:
        """In lock-step the learner starts when every slot's unroll is in, so that their order is fixed.

        A round that leaves the queue short of a batch is followed by another with the same parameters.
        """
        account = self.queue.account
        rounds, begun = divmod(account.accepted, self.total_slots)
        if begun:
            return False
        if account.queued < self._config.batch_size:
            self.store.count_up_to(rounds + 1)
            return False
        return True

    def _raise_failure(self, failure: BaseException) -> None:
        if isinstance(failure, UserError | RunFailedError):
            raise failure
        trace = "".join(traceback.format_exception(failure))
        raise RunFailedError(f"an actor stopped: {type(failure).__name__}: {failure}\n{trace}") from failure

    def state(self) -> dict[str, Array]:
        """Counters that keep the random streams from repeating; episodes restart on resume."""
        # What a former session left stands in for actors that are not built yet.
        state = {key: array for key, array in self._initial.items() if key.endswith(COUNTERS)}
        for actor in self._actors:
            for group in actor.groups:
                state |= {group_key(group.slots) + key: array for key, array in group.counters().items()}
        return state

    def unrolls_at_hand(self) -> int:
        """Those that wait for the learner, and the one that every slot fills."""
        return self.queue.account.queued + self.total_slots

    def close(self) -> None:
        """Stop the actors and close the environments; a thread that is stuck is left behind."""
        self._stopping.set()
        self.queue.close()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=10)
