"""A user's environments, each with another kind of observation that shows the right action."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv, VectorEnv
from gymnasium.wrappers import FrameStackObservation
from gymnasium.wrappers.vector import TransformAction, TransformObservation

SIDE, LAYERS = 12, 14


class Mission(spaces.Space[str]):
    """A space of a kind of its own, as MiniGrid's texts."""

    def __init__(self) -> None:
        super().__init__(shape=(), dtype=str)

    def sample(self, mask: Any = None, probability: Any = None) -> str:  # noqa: ARG002
        return "get to the green goal"

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mission)


class Guess(gymnasium.Env[Any, Any]):
    """Say which of four things is shown; 1 for each right answer, 8 in all, 2 by chance."""

    action_space: spaces.Space[Any] = spaces.Discrete(4)
    observation_space: spaces.Space[Any]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:  # noqa: ARG002
        super().reset(seed=seed)
        self.steps = 0
        return self._shown(), self.infos()

    def step(self, action: Any) -> Any:
        reward = float(action == self.answer)
        self.steps += 1
        return self._shown(), reward, False, self.steps == 8, self.infos()

    def _shown(self) -> Any:
        self.answer = int(self.np_random.integers(4))
        return self.see()

    def see(self) -> Any:
        raise NotImplementedError

    def infos(self) -> dict[str, Any]:
        return {}


class Cells(Guess):
    """One of 16 cells is 1; the answer is its index modulo 4."""

    def __init__(self, dtype: str) -> None:
        self.observation_space = spaces.Box(0, 1, (4, 4, 1), np.dtype(dtype))

    def see(self) -> Any:
        grid = np.zeros(16, self.observation_space.dtype)
        grid[self.answer + 4 * self.np_random.integers(4)] = 1
        return grid.reshape(4, 4, 1)


class Board(Guess):
    """A stone anywhere on one of more layers than the board has rows; the answer is its layer modulo 4."""

    def __init__(self, last: bool) -> None:
        self.last = last
        shape = (SIDE, SIDE, LAYERS) if last else (LAYERS, SIDE, SIDE)
        self.observation_space = spaces.Box(0, 1, shape, np.int8)

    def see(self) -> Any:
        board = np.zeros((SIDE, SIDE, LAYERS), np.int8)
        y, x = self.np_random.integers(0, SIDE, 2)
        board[y, x, self.answer + 4 * self.np_random.integers(3)] = 1
        return board if self.last else np.moveaxis(board, 2, 0)


class Spot(Guess):
    """A bright square in one of the quarters of a picture of 36 pixels."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        image = spaces.Box(0, 255, (36, 36, 3), np.uint8)
        speed = spaces.Box(-1, 1, (2,))
        self.observation_space = spaces.Dict({"camera": image, "speed": speed}) if kind == "dict" else image

    def see(self) -> Any:
        image = np.zeros((36, 36, 3), np.uint8)
        y, x = self.np_random.integers(0, 10, 2) + 18 * np.array(divmod(self.answer, 2))
        image[y : y + 8, x : x + 8] = 200
        if self.kind == "dict":
            return {"camera": image, "speed": np.zeros(2, np.float32)}
        return image


class Room(Guess):
    """As MiniGrid: a small image, a direction, which is the answer, and a text; and a tuple within."""

    observation_space: spaces.Space[Any] = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (7, 7, 3), np.uint8),
            "direction": spaces.Discrete(4, start=1),
            "mission": Mission(),
            "more": spaces.Dict({"pair": spaces.Tuple((spaces.Discrete(2), spaces.Text(9)))}),
        }
    )

    def see(self) -> Any:
        return {
            "image": np.full((7, 7, 3), 5, np.uint8),
            "direction": self.answer + 1,
            "mission": "get to the green goal",
            "more": {"pair": (self.answer % 2, "text")},
        }


class Doors(Guess):
    """Of four doors one is open, and its number the answer, which the mask alone shows; `where` it lies."""

    def __init__(self, where: str) -> None:
        self.where = where
        plain = spaces.Box(0, 1, (3,))
        mask = spaces.Box(0, 1, (4,))
        self.observation_space = spaces.Dict({"action_mask": mask, "seen": plain}) if where == "observation" else plain

    def mask(self) -> Any:
        return np.arange(4) == self.answer

    def see(self) -> Any:
        plain = np.zeros(3, np.float32)
        if self.where == "observation":
            return {"action_mask": self.mask().astype(np.float32), "seen": plain}
        return plain

    def infos(self) -> dict[str, Any]:
        if self.where == "observation" or (self.steps == 8 and self.where == "unfinished"):
            return {}
        return {"action_mask": self.mask().astype(np.int8)}


class Spoken(Guess):
    """The answer is said in a word, and actions count from 1: no network reads the one or says the other."""

    observation_space: spaces.Space[Any] = spaces.Text(5, charset="onetwhrfu")
    action_space = spaces.Discrete(4, start=1)
    WORDS = ("one", "two", "three", "four")

    def see(self) -> Any:
        return self.WORDS[self.answer]

    def step(self, action: Any) -> Any:
        return super().step(action - 1)


def heard(env: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
    """Words become one-hot."""
    space = spaces.Box(0, 1, (env.num_envs, 4))
    rows = np.eye(4, dtype=np.float32)
    return TransformObservation(
        env, lambda words: np.stack([rows[Spoken.WORDS.index(word)] for word in words]), space, spaces.Box(0, 1, (4,))
    )


def understood(env: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
    """Words become one-hot, and actions count from 0."""
    several = spaces.MultiDiscrete([4] * env.num_envs)
    return TransformAction(heard(env), lambda actions: actions + 1, several, spaces.Discrete(4))


def doors(num_slots: int) -> VectorEnv[Any, Any, Any]:
    return SyncVectorEnv([lambda: Doors("infos")] * num_slots)


def spot_stack() -> gymnasium.Env[Any, Any]:
    return FrameStackObservation(Spot("bytes"), 2)


def register(name: str, function: str, **options: Any) -> None:
    gymnasium.register(f"{name}-v0", f"{__name__}:{function}", kwargs=options)


register("CellsBytes", "Cells", dtype="uint8")
register("CellsInts", "Cells", dtype="int8")
register("BoardLast", "Board", last=True)
register("BoardFirst", "Board", last=False)
register("SpotDict", "Spot", kind="dict")
register("SpotStack", "spot_stack")
register("Room", "Room")
register("Spoken", "Spoken")
register("DoorsObservation", "Doors", where="observation")
register("DoorsInfos", "Doors", where="infos")
register("DoorsUnfinished", "Doors", where="unfinished")
