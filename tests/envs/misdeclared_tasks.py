"""Environments whose answers are not what their spaces declare, as they would lie in the working directory."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

BYTES = spaces.Box(0, 255, (2,), np.uint8)

FAULTS: dict[str, tuple[spaces.Space[Any], Any]] = {
    "floats": (spaces.Box(0, 255, (6,), np.uint8), np.full(6, 0.8)),
    "axes": (spaces.Box(0, 1, (3, 4, 2), np.float32), np.zeros((4, 2, 3), np.float32)),
    "number": (spaces.Box(0, 1, (6,), np.float32), np.array([0.5], np.float32)),
    "negative": (spaces.Box(0, 255, (6,), np.uint8), np.full(6, -1)),
    "nan": (spaces.Box(-5, 5, (6,), np.int64), np.full(6, np.nan)),
    "part": (
        spaces.Dict({"here": spaces.Box(0, 1, (2,), np.float32), "there": spaces.Box(0, 9, (2,), np.int32)}),
        {"here": np.zeros(2, np.float32), "there": np.array([0.5, 1.0])},
    ),
}
"""The space, and what step() gives."""

MESSAGES = {
    "floats": "observation holds 0.8 (float64), its space is of uint8",
    "axes": "observation has shape (4, 2, 3), its space has (3, 4, 2)",
    "number": "observation has shape (1,), its space has (6,)",
    "negative": "observation holds -1 (int64), its space is of uint8",
    "nan": "observation holds nan (float64), its space is of int64",
    "part": "observation 'there' holds 0.5 (float64), its space is of int32",
    "reward": "reward has shape (1,), it must be one number",
    "end": "terminated is not an array of numbers, it is 'no'",
}


class Misdeclared(gymnasium.Env[Any, Any]):
    """Right at reset, wrong from the first step on."""

    action_space = spaces.Discrete(2)

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.observation_space, self.wrong = FAULTS.get(fault, (BYTES, None))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed, options=options)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:  # noqa: ARG002
        reward: Any = np.ones(1) if self.fault == "reward" else 1.0
        ended: Any = "no" if self.fault == "end" else False
        observation = self.observation_space.sample() if self.wrong is None else self.wrong
        return observation, reward, ended, False, {}


class Counted(VectorEnv[Any, Any, Any]):
    """Counts in floats where it declares bytes; vectorized by itself."""

    def __init__(self, num_envs: int = 1) -> None:
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space = BYTES
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.single_action_space = spaces.Discrete(2)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:  # noqa: ARG002
        return np.zeros((self.num_envs, 2), np.uint8), {}

    def step(self, actions: Any) -> Any:  # noqa: ARG002
        nothing = np.zeros(self.num_envs, np.bool_)
        return np.full((self.num_envs, 2), 0.5), np.zeros(self.num_envs), nothing, nothing, {}


def misdeclared(num_envs: int) -> VectorEnv[Any, Any, Any]:
    return SyncVectorEnv([lambda: Misdeclared("floats")] * num_envs)


for fault in MESSAGES:
    gymnasium.register(f"Mis{fault}-v0", "misdeclared_tasks:Misdeclared", kwargs={"fault": fault})
gymnasium.register("Counted-v0", "misdeclared_tasks:Misdeclared", vector_entry_point="misdeclared_tasks:Counted")
