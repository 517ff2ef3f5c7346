"""The interfaces of environment, policy, learner and algorithm.

Packages of one layer meet only here (see docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from machina.buffers.buffer import Buffer, BufferSizes, Shards
from machina.specs import ArraySpec, EnvSpec
from machina.types import (
    ActorInput,
    ActorOutput,
    Array,
    CoreState,
    IntArray,
    Learned,
    StepResult,
    Unroll,
)

if TYPE_CHECKING:
    from torch import Tensor

    from machina.config import Config


MOST_SLOTS = 64
"""Slots that are stepped at once in evaluations and matches; more cost memory and start-up time and gain no speed."""


class SlotEnv(Protocol):
    """B slots that step together; autoreset is NEXT_STEP: the step after an end is a reset step.

    Raises ``EnvironmentFaultError`` from ``reset`` and ``step`` when the environment misbehaves.
    """

    spec: EnvSpec
    task_ids: IntArray
    """``[B]``: the task of each slot."""
    # Slots of one game are neighbours, in the order of ``spec.seats``; they end and start together.
    never_hangs: bool
    """Whether a step is arithmetic of ours or of gymnasium, which waits for nothing."""

    @property
    def waiting_for(self) -> str:
        """Which part of the environment is being stepped; names the culprit of a hang."""
        ...

    def reset(self, seeds: Sequence[int]) -> StepResult:
        """Start an episode in every slot; one seed per slot."""
        ...

    def step(self, actions: Array) -> StepResult:
        """Take ``actions`` ``[B, *action.shape]``; those of ended and of waiting slots are ignored."""
        ...

    def recover(self) -> StepResult | None:
        """Called from another thread while ``step`` hangs: replace the stuck part and finish the step.

        Returns None when the environment has no parts to replace; then it is rebuilt as a whole.
        """
        ...

    def stacks(self) -> str:
        """Called from another thread while ``reset`` or ``step`` hangs: where the processes it waits for are.

        The Python stack of each process that has not answered, found within a second; empty without such processes.
        """
        ...

    def get_state(self) -> Mapping[str, Array] | None:
        """A full copy of the environment's state, or None when the environment can't save it."""
        ...

    def set_state(self, state: Mapping[str, Array]) -> StepResult:
        """Restore ``get_state`` and return the current entry again."""
        ...

    def render(self) -> Array:
        """``[H, W, 3]`` uint8: a picture of slot 0, in environments made with ``make_for_video``."""
        ...

    @property
    def render_fps(self) -> float | None:
        """Pictures per second at which the environment wants to be seen; None where it does not say."""
        ...

    def close(self) -> None:
        """Release everything at once, also while another thread hangs in ``step``."""
        ...


class EnvFactory(Protocol):
    """Builds environments of one kind; picklable, so that any place can build its own."""

    @property
    def spec(self) -> EnvSpec: ...

    def make(self, task_ids: Sequence[int], progress: Callable[[int], None] | None = None) -> SlotEnv:
        """An environment with one slot per entry of ``task_ids``; whole games where the spec has seats.

        ``progress`` is called with the number of slots started since its last call; Atari takes 0.1 s per slot.
        """
        ...

    def make_for_video(self, task_id: int) -> SlotEnv:
        """An environment of one slot, or one game, whose ``render`` returns a picture."""
        ...


class Policy(Protocol):
    """The behaviour policy on the actor's device."""

    def initial_core_state(self, num_slots: int) -> CoreState: ...

    def act(self, inputs: ActorInput) -> ActorOutput:
        """Act for B slots."""
        ...

    def load_parameters(self, parameters: Tensor, done: float) -> None:
        """Copy a published flat vector into the network.

        Args:
            parameters: as ``Learner.flat_parameters`` gave it.
            done: fraction of the run that is done, which exploration may go by; 1 where nothing is explored.
        """
        ...

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy a checkpoint's "model" into the network. Raises ``UserError`` when it is another network's."""
        ...


class Drawn(NamedTuple):
    """The opponent of one game."""

    name: str
    probability: float
    """With which it was drawn, given that the game is against the pool."""


class Opponents(Protocol):
    """Other players than the policy that learns, for the games of one actor."""

    def load(self, view: Any) -> None:
        """Draw from these from now on, see ``PublishedParameters.opponents``; running games keep theirs."""
        ...

    @property
    def available(self) -> bool:
        """Whether ``draw`` can return anything but None."""
        ...

    def draw(self, uniforms: Sequence[float]) -> Drawn | None:
        """The opponent of a new game, held until ``release``; None is the present self.

        Args:
            uniforms: two numbers in [0, 1).
        """
        ...

    def hold(self, name: str) -> None:
        """Hold the opponent of a game that continues from a saved state, until ``release``.

        Raises:
            UserError: there is none of that name, or the memory is full.
        """
        ...

    def release(self, name: str) -> None:
        """A game of this opponent is over."""
        ...

    def act(self, name: str, inputs: ActorInput) -> ActorOutput:
        """Act for an opponent that is held; see ``Policy.act``."""
        ...

    def state(self) -> dict[str, Array]:
        """What the next draws depend on, as named arrays."""
        ...

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Continue from ``state``, after ``load`` and before any game."""
        ...


class LearnerState(NamedTuple):
    """Everything a learner needs to continue: tensors for safetensors, the rest for JSON."""

    tensors: dict[str, dict[str, Tensor]]
    """File stem ("model", "optimizer") to named tensors."""
    values: dict[str, Any]


class Learner(Protocol):
    """Turns batches into parameters."""

    def update(self, batch: Unroll[Array], done: float) -> Learned:
        """One update. Raises nothing on NaN: the update is skipped then.

        With several ranks ``batch`` is this rank's share of the slots, possibly none; the update and its metrics are
        those of the whole batch, on every rank.

        Args:
            batch: of B slots.
            done: fraction of the run that is done, 0 to 1 or a little more; what schedules go by.

        Raises:
            RanksBrokenError: another rank is gone; a learner of several steps per update may have made some of them.
        """
        ...

    def flat_parameters(self) -> Tensor:
        """A new flat float32 CPU vector with all parameters, for publication."""
        ...

    def state(self) -> LearnerState: ...

    def load_state(self, state: LearnerState) -> None: ...

    def load_initial(self, tensors: Mapping[str, Tensor], with_value: bool) -> None:
        """Start from another run's "model"; optimizer and counters stay new."""
        ...


class Ranks(Protocol):
    """The learner ranks that share every batch, seen from one of them. Every rank makes the same calls."""

    rank: int
    """From 0."""
    size: int

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, in place, by its sum over the ranks.

        Raises:
            RanksBrokenError: a rank is dead or did not come in time.
        """
        ...

    def close(self) -> None:
        """Leave the others; waits for none of them."""
        ...


class LearningFacts(NamedTuple):
    """What an algorithm makes of an environment, a line each; shown when a run starts."""

    network: str
    """How observations are read."""
    rewards: str
    """What is done with them before they are learned from."""
    exploration: str = ""
    """How actors come to other actions than the best; empty where the policy that is learned is sampled from."""
    replay: str = ""
    """What is kept to be learned from again; empty where each step is learned from once."""


class Algorithm(Protocol):
    """An algorithm's builder: the network, how an actor picks actions, the learner."""

    @property
    def config(self) -> Config: ...

    def make_policy(self, spec: EnvSpec, device: str, precision: str, *, explores: bool, num_slots: int) -> Policy:
        """A policy for B slots or fewer at a time.

        Args:
            spec: of the environment.
            device: that it acts on.
            precision: ``auto``, ``float32`` or ``bfloat16``.
            explores: whether it collects data; else it does what it has learned to be best, as in evaluations, films
                and matches. What is learned as a distribution is sampled from in both cases.
            num_slots: of the run as configured. Actors that join a cluster's run later, and those that don't explore,
                may have higher ``ActorInput.slots``.
        """
        ...

    def make_learner(self, spec: EnvSpec, device: str, precision: str, seed: int, ranks: Ranks) -> Learner:
        """One of ``ranks`` that share every batch; equal seeds give all of them equal parameters."""
        ...

    def make_buffer(self, spec: EnvSpec, sizes: BufferSizes, shards: Shards) -> Buffer:
        """What lies between the actors and the learner.

        Args:
            spec: of the environment.
            sizes: of the run.
            shards: where parts of it may live that are processes of their own in a cluster.
        """
        ...

    def buffer_bytes(self, spec: EnvSpec) -> int:
        """Memory of the buffer when it is full, besides the unrolls that wait or are under way."""
        ...

    def policy_outputs(self, spec: EnvSpec) -> dict[str, ArraySpec]:
        """Arrays that its policies leave in unrolls for its learner; shapes without time and batch axes."""
        ...

    def describe(self, spec: EnvSpec) -> LearningFacts:
        """How it would read the environment; raises UserError where it can't."""
        ...
