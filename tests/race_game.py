"""A small game of teams, and policies whose every answer says who gave it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from machina.errors import EnvironmentFaultError
from machina.interfaces import SlotEnv
from machina.league.opponents import PoolOpponents
from machina.league.pool import PoolView
from machina.nets.parameters import load_flat, load_tensors
from machina.specs import ArraySpec, EnvSpec, Seat, discrete
from machina.types import (
    BEHAVIOUR_LOGITS,
    ActorInput,
    ActorOutput,
    Array,
    BoolArray,
    CoreState,
    IntArray,
    StepResult,
    names_of,
)

STUMBLE, WALK, RUN = 0, 1, 2
TWO_TEAMS = (7, 4, 4, 7)
"""Team of each seat: numbers that are no indices, teams that are no neighbours."""
THREE_TEAMS = (0, 1, 2)


def race_spec(teams: Sequence[int] = TWO_TEAMS) -> EnvSpec:
    return EnvSpec(
        name="race",
        tasks=("odd", "even"),
        seats=tuple(Seat(agent=f"runner_{i}", role=i % 2, team=team) for i, team in enumerate(teams)),
        observation={"observation": ArraySpec(shape=(3,), dtype="float32")},
        action=discrete(3),
    )


class Race:
    """Runners gain the number of their action; 0 is a stumble, which ends that runner's episode.

    Game g of a place lasts 2 + (place + g) % 3 steps, or until all have stumbled. The observation is [step, game,
    seat].
    """

    def __init__(self, spec: EnvSpec, num_games: int, fails_at: int | None = None) -> None:
        self.spec = spec
        self._shape = (num_games, len(spec.seats))
        num_slots = num_games * len(spec.seats)
        self.task_ids: IntArray = np.array([spec.task_of(slot) for slot in range(num_slots)], np.int64)
        self._teams = np.array([seat.team for seat in spec.seats])
        self._fails_at = fails_at
        self.steps = 0
        self.closed = False
        self.waiting_for = "race"

    def reset(self, seeds: Sequence[int]) -> StepResult:
        assert len(seeds) == len(self.task_ids)
        games = self._shape[0]
        self._step, self._game = np.zeros(games, np.int64), np.zeros(games, np.int64)
        self._ended: BoolArray = np.zeros(self._shape, np.bool_)
        return self._entry(np.zeros(self._shape, np.float32))

    def step(self, actions: Array) -> StepResult:
        self.steps += 1
        if self.steps == self._fails_at:
            raise EnvironmentFaultError("environment 'race': a runner left the track")
        action = actions.reshape(self._shape)
        over = np.logical_and.reduce(self._ended, axis=1)
        runs = ~self._ended
        reward = np.where(runs, action, 0).astype(np.float32)
        self._step = np.where(over, 0, self._step + 1)
        self._game += over
        out_of_time = self._step == 2 + (np.arange(len(over)) + self._game) % 3
        ended = self._ended | (runs & (action == STUMBLE)) | out_of_time[:, None]
        self._ended = np.where(over[:, None], False, ended)
        return self._entry(np.where(over[:, None], np.float32(0), reward))

    def _entry(self, reward: Array) -> StepResult:
        seat = np.broadcast_to(np.arange(self._shape[1]), self._shape)
        step, game = (np.broadcast_to(array[:, None], self._shape) for array in (self._step, self._game))
        observation = np.stack([step, game, seat], axis=-1).astype(np.float32).reshape(-1, 3)
        ended = self._ended.reshape(-1).copy()
        flat = reward.astype(np.float32).reshape(-1)
        nothing = np.zeros_like(ended)
        return StepResult({"observation": observation}, flat, ended, nothing, nothing, ~nothing, flat, flat * 0, flat)

    def get_state(self) -> Mapping[str, Array]:
        return {"step": self._step.copy(), "game": self._game.copy(), "ended": self._ended.copy()}

    def set_state(self, state: Mapping[str, Array]) -> StepResult:
        self._step, self._game, self._ended = state["step"], state["game"], state["ended"]
        return self._entry(np.zeros(self._shape, np.float32))

    never_hangs = True
    render_fps: float | None = None

    def recover(self) -> None: ...

    def stacks(self) -> str:
        return ""

    def render(self) -> Array:
        raise NotImplementedError

    def close(self) -> None:
        self.closed = True


class RaceFactory:
    """Builds races and keeps them at hand."""

    def __init__(self, spec: EnvSpec, fails_at: int | None = None) -> None:
        self.spec = spec
        self.made: list[Race] = []
        self._fails_at = fails_at

    def make(self, task_ids: Sequence[int], progress: Callable[[int], None] | None = None) -> SlotEnv:
        race = Race(self.spec, len(task_ids) // len(self.spec.seats), self._fails_at)
        assert race.task_ids.tolist() == list(task_ids)
        assert progress is None
        self.made.append(race)
        return race

    def make_for_video(self, task_id: int) -> SlotEnv:
        raise NotImplementedError


class StampingPolicy(nn.Module):
    """Adds its stamp to the core state at every step; logits are its other three parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(4), requires_grad=False)

    def initial_core_state(self, num_slots: int) -> CoreState:
        return (np.zeros((num_slots, 1), np.float32),)

    def act(self, inputs: ActorInput) -> ActorOutput:
        with torch.inference_mode():
            (core,) = (torch.from_numpy(array) for array in inputs.core_state)
            core = torch.where(torch.from_numpy(inputs.first)[:, None], 0, core) + self.values[0]
            logits = self.values[1:].expand(len(inputs.first), 3)
            action = (logits.softmax(1).cumsum(1) <= torch.from_numpy(inputs.uniforms)[:, None]).sum(1).clamp(max=2)
            return ActorOutput(action.numpy(), {BEHAVIOUR_LOGITS: logits.numpy()}, (core.numpy(),))

    def load_parameters(self, parameters: Tensor, done: float) -> None:  # noqa: ARG002 (it does not explore)
        load_flat(self, parameters)

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        load_tensors(self, tensors)


def parameters_of(number: int) -> Tensor:
    """Of snapshot ``number``: stamp, then logits that differ from those of all others."""
    return torch.tensor([1.0 + number, -1.0, 0.1 * number, 0.3])


def stamping_policy(number: int) -> StampingPolicy:
    policy = StampingPolicy()
    policy.load_parameters(parameters_of(number), done=1.0)
    return policy


def view_of(probabilities: Sequence[float], pool_share: float = 1.0) -> PoolView:
    """A pool of snapshots ``u1``, ``u2``, … with the parameters of their numbers."""
    numbers = range(1, len(probabilities) + 1)
    names = tuple(f"u{number}" for number in numbers)
    return PoolView(names, tuple(probabilities), tuple(numbers), pool_share)


def in_memory(opponents: PoolOpponents) -> tuple[str, ...]:
    """Opponents whose parameters are loaded."""
    return tuple(names_of(opponents.state()["in_memory"]))
