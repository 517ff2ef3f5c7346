"""What an algorithm needs to know of an environment, and nothing more."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from machina.types import NO_ACTION, OBSERVATION, Array, IntArray

LONGEST_EPISODE = 108_000
"""Env steps after which an episode without a limit of its own counts as one that never ends: the half hour that caps
Atari's in the papers, were every frame a step."""


NO_BOUND = float(np.finfo(np.float32).max)
"""Floats as large as this stand for no bound: many environments write them for infinity."""


class ArraySpec(BaseModel):
    """Shape and numpy dtype of one array, without time and batch axes; where its numbers lie, and how it is made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[int, ...]
    dtype: str
    low: float | None = Field(default=None, description="Least of all bounds; None: no other than the dtype's.")
    high: float | None = Field(default=None, description="Greatest of all bounds; None: no other than the dtype's.")
    choices: tuple[int, ...] = Field(
        default=(), description="The environment gives choices, each of this many, which become one-hot one by one."
    )
    starts: tuple[int, ...] = Field(default=(), description="The number of the first choice, of each.")

    def holds(self, shape: tuple[int, ...], dtype: str) -> bool:
        """Whether arrays are of that shape and dtype, wherever their numbers lie."""
        return (self.shape, self.dtype) == (shape, dtype)


class ActionSpec(BaseModel):
    """What an action is: one choice, several choices at once, or real numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["discrete", "multi_discrete", "continuous"]
    choices: tuple[int, ...] = Field(default=(), description="Number of choices of each discrete component.")
    low: tuple[float, ...] = Field(default=(), description="Of each number; the policy's -1, if both are finite.")
    high: tuple[float, ...] = Field(default=(), description="Of each number; the policy's 1, if both are finite.")
    number_dtype: str = Field(default="float32", description="Of numbers, as the environment takes them.")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one action."""
        if self.kind == "discrete":
            return ()
        return (len(self.choices) or len(self.low),)

    @property
    def dtype(self) -> str:
        return "float32" if self.kind == "continuous" else "int64"

    @property
    def num_parameters(self) -> int:
        """P: logits of all choices, or mean and logarithm of the deviation of each number."""
        return 2 * len(self.low) if self.kind == "continuous" else sum(self.choices)

    def none(self, num_slots: int) -> Array:
        """``[num_slots, *shape]``: the previous action where there is none."""
        return np.full((num_slots, *self.shape), 0 if self.kind == "continuous" else NO_ACTION, self.dtype)


def discrete(num_actions: int) -> ActionSpec:
    """One of ``num_actions`` actions."""
    return ActionSpec(kind="discrete", choices=(num_actions,))


class Seat(BaseModel):
    """One agent of a game for several agents."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    agent: str = Field(description="The environment's name of it.")
    role: int = Field(description="Index of its role among the tasks; roles may have networks of their own.")
    team: int = Field(description="Agents of equal number win and lose together.")
    par: float = Field(
        default=0.0, description="Summed score that is neither good nor bad for it; what a team's result counts from."
    )


class EnvSpec(BaseModel):
    """The contract between an environment and the networks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="What the user typed.")
    tasks: tuple[str, ...] = Field(description="Names of tasks, or of roles; `task_id` is the index.")
    seats: tuple[Seat, ...] = Field(
        default=(), description="The agents of one game, a slot each; empty where every slot is a world of its own."
    )
    observation: dict[str, ArraySpec] = Field(description="Observation arrays by key.")
    action: ActionSpec
    frame_stack: int = Field(
        default=1,
        ge=1,
        description="With more than 1, the array `observation` is a stack [frame_stack, H, W], newest frame last, "
        "that shifts by one frame per step and is zero before the episode's first frame.",
    )
    clip_rewards: bool = Field(
        default=False, description="Whether it is usual to learn from rewards clipped to [-1, 1], as for Atari."
    )
    frames_per_step: int = Field(default=1, ge=1, description="Environment frames per env step (action repeats).")
    protocol: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="How episodes are run; stored with every score."
    )

    @property
    def num_tasks(self) -> int:
        return len(self.tasks)

    def num_slots(self, envs_per_task: int) -> int:
        """Slots of a run: this many environments of every task, or games of all agents."""
        return envs_per_task * (len(self.seats) or self.num_tasks)

    @property
    def slots_per_game(self) -> int:
        """Slots that step in one game."""
        return max(1, len(self.seats))

    @property
    def observation_bytes(self) -> int:
        """Of one entry, as the environment gives it."""
        return sum(np.dtype(each.dtype).itemsize * math.prod(each.shape) for each in self.observation.values())

    @property
    def longest_episode(self) -> int:
        """Env steps after which an episode that is played to its end is given up as endless."""
        limits = {"max_episode_steps": 1, "max_steps": 1, "frame_cap": self.frames_per_step}
        own = [int(self.protocol[name]) // frames for name, frames in limits.items() if name in self.protocol]
        return max([LONGEST_EPISODE, *(limit + 1 for limit in own)])

    @property
    def num_teams(self) -> int:
        return len({seat.team for seat in self.seats})

    @property
    def team_of_seat(self) -> IntArray:
        """``[S]``: index of each seat's team, 0 to ``num_teams`` - 1 in the order of the teams' numbers."""
        teams = sorted({seat.team for seat in self.seats})
        return np.array([teams.index(seat.team) for seat in self.seats], np.int64)

    def team_scores(self, scores: Array) -> tuple[float, ...]:
        """What a game came to for each team: the mean over its seats of their summed scores above par.

        Args:
            scores: ``[S]``, summed over the game.
        """
        above, team_of_seat = scores - [seat.par for seat in self.seats], self.team_of_seat
        return tuple(float(above[team_of_seat == team].mean()) for team in range(self.num_teams))

    def task_of(self, slot: int) -> int:
        """Slots of a game follow one another in the order of its seats; else neighbours have different tasks."""
        return self.seats[slot % len(self.seats)].role if self.seats else slot % self.num_tasks

    @property
    def stores_frames_once(self) -> bool:
        return self.frame_stack > 1

    @property
    def stored_observation(self) -> dict[str, ArraySpec]:
        """The arrays an unroll stores per step: a stack loses its leading axis, the rest stays."""
        if not self.stores_frames_once:
            return self.observation
        stack = self.observation[OBSERVATION]
        return {**self.observation, OBSERVATION: ArraySpec(shape=stack.shape[1:], dtype=stack.dtype)}
