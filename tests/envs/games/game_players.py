"""Games played by scripted players, for the tests."""

import pickle
from typing import Any

import numpy as np

from machina.envs.builders import parse_environment
from machina.envs.config import GameConfig
from machina.envs.games.scripted import SCRIPTED
from machina.interfaces import EnvFactory, SlotEnv
from machina.types import Array, StepResult

HEURISTICS = {game: next(name for name in players if name != "random") for game, players in SCRIPTED.items()}


def make(name: str, num_games: int = 1, **options: Any) -> SlotEnv:
    factory: EnvFactory = pickle.loads(pickle.dumps(parse_environment(name, GameConfig(**options))))
    return factory.make([seat.role for seat in factory.spec.seats] * num_games)


class Players:
    """Answers for the slots of an environment, each with the player of its own."""

    def __init__(self, env: SlotEnv, names: list[str], seed: int = 0) -> None:
        self._env, self._generator = env, np.random.default_rng(seed)
        self._players = [SCRIPTED[env.spec.name][name] for name in names]
        seats = env.spec.seats
        self._chosen = np.array([seat.team for seat in seats] * (len(env.task_ids) // len(seats)))

    def swap_in_odd_games(self) -> None:
        odd = np.arange(len(self._chosen)) // len(self._env.spec.seats) % 2
        self._chosen = np.where(odd, 1 - self._chosen, self._chosen)

    def act(self, entry: StepResult) -> Array:
        uniforms = self._generator.random(len(self._chosen), np.float32)
        answers = [player(entry.observation, self._env.task_ids, uniforms) for player in self._players]
        return np.where(self._chosen == 0, answers[0], answers[-1])
