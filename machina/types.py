"""The structures that pass between environments, actors, buffers and learner.

Time and batch are called T and B everywhere: T is ``unroll_length``, B counts slots. An unroll has
``T + 1`` entries; entry t holds observation t, the reward and the flags that arrived with it, the
action taken there and what the behaviour policy left for its learner. The last entry opens the next unroll, so
its action and the policy's outputs are zero. ``machina.losses.alignment`` turns this into T aligned steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Observation = Mapping[str, Array]
CoreState = tuple[FloatArray, ...]

OBSERVATION = "observation"
"""The key of an observation that the environment gives as one array."""

ACTION_MASK = "action_mask"
"""The key of an observation that says which actions are allowed now; ``[sum of choices]`` bool."""

BEHAVIOUR_LOGITS = "behaviour_logits"
"""The policy output that holds the parameters of its distribution over actions, ``[..., P]`` float32."""

NO_ACTION = -1
"""The previous discrete action before the first of an episode; a continuous one is zero there."""

AnyArray = TypeVar("AnyArray")


class Unroll(NamedTuple, Generic[AnyArray]):
    """T + 1 consecutive entries of B slots; numpy arrays from the actor, tensors in the learner.

    When the environment's spec has ``frame_stack > 1``, ``observation["observation"]`` holds every
    image frame once: ``[T + frame_stack, B, H, W]``, the frames that precede entry 0 first.
    """

    observation: Mapping[str, AnyArray]
    """``[T + 1, B, ...]`` each."""
    reward: AnyArray
    """``[T + 1, B]`` float32, the agent's own, as the environment gave it."""
    team_reward: AnyArray
    """``[T + 1, B]`` float32: mean over the agent's team, itself included; its own without a team."""
    enemy_reward: AnyArray
    """``[T + 1, B]`` float32: mean over all agents of other teams; 0 without any."""
    terminated: AnyArray
    """``[T + 1, B]`` bool: observation t is the last one of an episode that the task ended."""
    truncated: AnyArray
    """``[T + 1, B]`` bool: observation t is the last one of an episode that a limit cut."""
    life_lost: AnyArray
    """``[T + 1, B]`` bool: the return stops here, the episode continues (zero discount, no reset)."""
    on_turn: AnyArray
    """``[T + 1, B]`` bool: False where others move; the action there is ignored."""
    foreign: AnyArray
    """``[T + 1, B]`` bool: another player than the policy that learns acts here; nothing may be learned from it."""
    action: AnyArray
    """``[T + 1, B, *action.shape]``; off turn the agent's last own action."""
    policy_outputs: Mapping[str, AnyArray]
    """``[T + 1, B, ...]`` each: what the policy that acted leaves for the learner, see ``Algorithm.policy_outputs``."""
    core_state: tuple[AnyArray, ...]
    """``[B, ...]`` each: the core state with which the policy acted on entry 0."""
    previous_action: AnyArray
    """``[B, *action.shape]``: the agent's last own action before entry 0, none when the episode has none yet."""
    first: AnyArray
    """``[B]`` bool: entry 0 opens an episode."""
    task_id: AnyArray
    """``[B]`` int64."""
    slot: AnyArray
    """``[B]`` int64: index of the slot in the whole run."""
    policy_version: AnyArray
    """``[B]`` int64: the learner update whose parameters acted."""
    start: AnyArray
    """``[B]`` int64: numbers of the slot's action stream drawn before entry 0. Of two unrolls of a slot the second
    follows the first at once where its start is larger by T; not where an environment was replaced between them."""
    weight: AnyArray
    """``[B]`` float32: of the slot in the loss, largest 1; 1 where each unroll is learned from once. By Q-learners."""


ARRIVING = ("reward", "team_reward", "enemy_reward", "terminated", "truncated", "life_lost", "on_turn")
"""Fields of an unroll that arrive with the observation."""

TIME_MAJOR = (*ARRIVING, "foreign", "action")
"""Fields of an unroll with an entry per step, the observation and the policy's outputs aside."""

PER_SLOT = ("previous_action", "first", "task_id", "slot", "policy_version", "start", "weight")
"""Fields of an unroll with an entry per slot, the core state aside."""

OtherArray = TypeVar("OtherArray")


def combined(
    unrolls: Sequence[Unroll[AnyArray]],
    over_time: Callable[[list[AnyArray]], OtherArray],
    per_slot: Callable[[list[AnyArray]], OtherArray],
) -> Unroll[OtherArray]:
    """One unroll from several, array by array.

    Args:
        unrolls: one at least.
        over_time: makes one ``[T + 1, B, ...]`` array of those of all unrolls.
        per_slot: makes one ``[B, ...]`` array of those of all unrolls.
    """
    first = unrolls[0]
    return Unroll(
        observation={key: over_time([each.observation[key] for each in unrolls]) for key in first.observation},
        policy_outputs={key: over_time([each.policy_outputs[key] for each in unrolls]) for key in first.policy_outputs},
        core_state=tuple(per_slot([each.core_state[i] for each in unrolls]) for i in range(len(first.core_state))),
        **{name: over_time([getattr(each, name) for each in unrolls]) for name in TIME_MAJOR},
        **{name: per_slot([getattr(each, name) for each in unrolls]) for name in PER_SLOT},
    )


class StepResult(NamedTuple):
    """What a vector environment of B slots returns from a reset or a step; ``[B]`` each, as in ``Unroll``.

    An agent whose episode ended before those of the others repeats its end until its game is over: each such entry
    ends an episode of no steps.
    """

    observation: Observation
    reward: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    life_lost: BoolArray
    on_turn: BoolArray
    team_reward: FloatArray
    enemy_reward: FloatArray
    score: FloatArray
    """What decides a game of several agents: the reward, unless the game says otherwise. Nothing is learned from it."""

    def of(self, slots: IntArray) -> StepResult:
        """That of some slots, given by their indices."""
        others = {name: getattr(self, name)[slots] for name in self._fields if name != OBSERVATION}
        return self._replace(observation={key: array[slots] for key, array in self.observation.items()}, **others)

    def state(self) -> dict[str, Array]:
        """A copy as named arrays, for a checkpoint."""
        observation = {f"observation/{key}": array.copy() for key, array in self.observation.items()}
        others = {f"entry/{key}": getattr(self, key).copy() for key in self._fields if key != OBSERVATION}
        return observation | others

    @classmethod
    def from_state(cls, state: Mapping[str, Array]) -> StepResult:
        """The inverse of ``state``, which may stand among other arrays."""
        return cls(observation=copies(section(state, "observation/")), **copies(section(state, "entry/")))


def single_agent_step(
    observation: Observation, reward: FloatArray, terminated: BoolArray, truncated: BoolArray, life_lost: BoolArray
) -> StepResult:
    """What an environment returns whose slots have nothing to do with one another."""
    return StepResult(
        observation,
        reward,
        terminated,
        truncated,
        life_lost,
        on_turn=np.ones_like(terminated),
        team_reward=reward,
        enemy_reward=np.zeros_like(reward),
        score=reward,
    )


class ActorInput(NamedTuple):
    """What an actor asks the behaviour policy, for B slots."""

    observation: Observation
    """``[B, ...]`` arrays; image stacks as the environment gives them."""
    reward: FloatArray
    """``[B]``, that arrived with the observation."""
    previous_action: Array
    """``[B, *action.shape]``, ``spec.action.none`` before an episode's first."""
    first: BoolArray
    """``[B]``: the entry opens an episode; the core state starts from zero there."""
    task_id: IntArray
    """``[B]``, for networks with parts of their own for each role."""
    core_state: CoreState
    """``[B, ...]`` arrays."""
    uniforms: FloatArray
    """``[B, *action.shape]`` in [0, 1), one random stream per slot."""
    slots: IntArray
    """``[B]``: indices among all slots that are played, for policies that explore differently in each."""

    def of(self, slots: IntArray) -> ActorInput:
        """That of some slots, given by their indices."""
        return ActorInput(
            {key: array[slots] for key, array in self.observation.items()},
            self.reward[slots],
            self.previous_action[slots],
            self.first[slots],
            self.task_id[slots],
            tuple(array[slots] for array in self.core_state),
            self.uniforms[slots],
            self.slots[slots],
        )


class ActorOutput(NamedTuple):
    """What the behaviour policy returns for B slots."""

    action: Array
    """``[B, *action.shape]``."""
    policy_outputs: Mapping[str, Array]
    """``[B, ...]`` each, for the unroll."""
    core_state: CoreState


class Learned(NamedTuple):
    """What one update came to."""

    metrics: dict[str, float]
    skipped: bool = False
    """Something was not finite; of the optimizer's steps, only those before it were made."""
    passes: float = 1.0
    """Times that each step of the batch was learned from."""
    lost: int = 0
    """Unrolls of the batch that could not be fetched."""
    priorities: FloatArray | None = None
    """``[B]``: under which the batch's slots are sampled from now on, NaN where lost; None where nothing is sampled."""


class Episode(NamedTuple):
    """A finished episode, undiscounted and unclipped."""

    task_id: int
    episode_return: float
    length: int
    """In env steps."""


PRESENT_SELF = ""
"""The policy that learns, among the names of a game's players."""


class GameResult(NamedTuple):
    """A finished game of several agents."""

    players: tuple[str, ...]
    """Who played each team, in the order of the teams' numbers."""
    scores: tuple[float, ...]
    """Of each team, see ``EnvSpec.team_scores``; the highest has won."""
    length: int
    """In env steps."""
    probability: float = 1.0
    """With which the opponent was drawn from the pool; 1 where none was."""
    cut: bool = False
    """A limit of steps ended it, not the rules."""


def names_as_array(names: Iterable[str]) -> Array:
    """Names as one array of bytes, for a checkpoint's tensors; none may hold a line break."""
    return np.frombuffer("".join(f"{name}\n" for name in names).encode(), np.uint8).copy()


def names_of(array: Array) -> list[str]:
    """The inverse of ``names_as_array``."""
    return array.astype(np.uint8).tobytes().decode(errors="replace").split("\n")[:-1]


def section(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    """The arrays under ``prefix``, without it."""
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}


def copies(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Copies of named arrays."""
    return {key: array.copy() for key, array in arrays.items()}


def where_slots(slots: BoolArray, chosen: Array, other: Array) -> Array:
    """``chosen`` ``[B, ...]`` in the slots where ``slots`` ``[B]`` is true, ``other`` elsewhere."""
    return np.where(slots.reshape(-1, *[1] * (chosen.ndim - 1)), chosen, other)
