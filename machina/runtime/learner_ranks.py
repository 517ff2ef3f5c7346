"""One learner rank: what runs beside the learner, wherever the place puts it.

The group (``machina.runtime.learners``) speaks to its ranks by method name; ``InlineRank`` answers in the caller's
thread, ``ProcessRank`` in a process of this machine, ``machina.runtime.ray_parts.RayRank`` in one of a Ray cluster.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import cloudpickle

from machina.errors import RanksBrokenError, RunFailedError, UserError, stopped
from machina.interfaces import Learner, LearnerState
from machina.processes import told_exit
from machina.runtime.batches import Part, joined
from machina.types import Array, Unroll

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


class RankFaultError(Exception):
    """A rank died, hung, or lost the others; the group starts again from its last state."""

    def __init__(self, message: str, died: bool = False) -> None:
        super().__init__(message)
        self.died = died
        """Whether this rank is the culprit."""


class LearnerRank:
    """The learner of one rank, and the batch that it could not learn from."""

    def __init__(self, setup: RankSetup) -> None:
        self._learner = setup.make_learner(setup.rank, setup.size, setup.rendezvous)
        self._publishes = setup.rank == 0
        self._skipped: Unroll[Array] | None = None

    def update(self, parts: Sequence[Part]) -> tuple[dict[str, float], Tensor | None]:
        """One update from this rank's parts; its metrics, and on rank 0 the new parameters."""
        return self.update_from(joined(parts))

    def update_from(self, unroll: Unroll[Array]) -> tuple[dict[str, float], Tensor | None]:
        """The same from unrolls that are joined already."""
        metrics = self._learner.update(unroll)
        self._skipped = unroll if metrics["learner/skipped"] > 0 else None
        return metrics, self.parameters()[1]

    def parameters(self) -> tuple[None, Tensor | None]:
        """The parameters as they are, in the form of ``update``'s answer."""
        return None, self._learner.flat_parameters() if self._publishes else None

    def state(self) -> LearnerState:
        """Everything the learner needs to go on."""
        return self._learner.state()

    def load_state(self, state: LearnerState) -> None:
        """Go on from ``state``."""
        self._learner.load_state(state)

    def load_initial(self, tensors: Mapping[str, Tensor], with_value: bool) -> None:
        """Start from another run's model."""
        self._learner.load_initial(tensors, with_value)

    def skipped(self) -> Unroll[Array] | None:
        """This rank's part of the last batch, when its update was skipped for NaN."""
        return self._skipped


class RankHandle(Protocol):
    """The group's end of a rank. Calls are answered in their order."""

    name: str

    def call(self, method: str, *arguments: Any) -> None:
        """Ask for a method of ``LearnerRank``."""
        ...

    def has_answered(self, timeout_s: float) -> bool:
        """Whether the oldest unanswered call has its answer, or the rank is known to be dead; waits for it so long."""
        ...

    def answer(self) -> Any:
        """What the oldest unanswered call came to, once ``has_answered``.

        Raises:
            RankFaultError: the rank is dead or lost the others.
            UserError, RunFailedError: what the method raised.
        """
        ...

    def kill(self) -> None: ...


class InlineRank:
    """The only rank, in the caller's thread: it answers at once."""

    name = "learner"

    def __init__(self, setup: RankSetup) -> None:
        self._rank = LearnerRank(setup)
        self._answers: deque[Any] = deque()

    def call(self, method: str, *arguments: Any) -> None:
        """Run the method now."""
        self._answers.append(getattr(self._rank, method)(*arguments))

    def has_answered(self, timeout_s: float) -> bool:  # noqa: ARG002 (nothing to wait for)
        """Always."""
        return True

    def answer(self) -> Any:
        """What the oldest unanswered call came to."""
        return self._answers.popleft()

    def kill(self) -> None:
        """Nothing is to be stopped."""


class ProcessRank:
    """A rank in a process of this machine; calls and answers go through a pipe.

    Args:
        prepare: makes the process like this one (registered names); called there first.
        setup: what the rank is built from.
        threads: torch threads.
    """

    def __init__(self, prepare: Callable[[], None], setup: RankSetup, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = f"learner rank {setup.rank}"
        self._pipe, theirs = context.Pipe()
        # Functions that a script registered travel by value; the standard pickle knows only names.
        recipe = cloudpickle.dumps((prepare, setup))
        self.process = context.Process(target=_serve, args=(recipe, threads, theirs), name=self.name, daemon=True)
        self.process.start()
        theirs.close()

    def call(self, method: str, *arguments: Any) -> None:
        """Send the call; a rank that is dead is found out by ``answer``."""
        try:
            self._pipe.send_bytes(cloudpickle.dumps((method, arguments)))
        except OSError:
            return

    def has_answered(self, timeout_s: float) -> bool:
        """Whether something is in the pipe, or its other end is gone."""
        return self._pipe.poll(timeout_s)

    def answer(self) -> Any:
        """What the oldest unanswered call came to."""
        try:
            answer = cloudpickle.loads(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            self.process.join(1)
            code = self.process.exitcode
            end = "left its pipe" if code is None else told_exit(code)
            raise RankFaultError(f"{self.name} {end}", died=True) from error
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def kill(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join(5)
        self._pipe.close()


def _serve(recipe: bytes, threads: int, pipe: Connection) -> None:
    """A rank's process: answer calls until the group is gone."""
    from machina.runtime.hardware import tune_process

    # Ctrl-C in the terminal, or its end, reaches every process; the group says when to stop.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    tune_process(threads)
    rank: LearnerRank | None = None
    while True:
        try:
            method, arguments = cloudpickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)  # a collective that hangs in another thread must not hold the process
        try:
            if rank is None:
                prepare, setup = cloudpickle.loads(recipe)
                prepare()
                rank = LearnerRank(setup)
            answer = getattr(rank, method)(*arguments)
        except BaseException as error:
            answer = as_answer(error)
        pipe.send_bytes(cloudpickle.dumps(answer))


def as_answer(error: BaseException) -> Exception:
    """What a rank answers for what its learner raised."""
    if isinstance(error, UserError | RunFailedError | RankFaultError):
        return error
    if isinstance(error, RanksBrokenError):
        return RankFaultError(str(error))
    return stopped("the learner", error)


def free_port() -> int:
    """A TCP port that nobody uses just now."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])
