"""Wrappers and environments that learn from what passes through them, and one that does not."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import WrapperSpec
from gymnasium.vector import SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.wrappers import NormalizeObservation, NormalizeReward
from gymnasium.wrappers import vector as vector_wrappers


class Kept(vector_wrappers.NormalizeObservation):
    """A subclass."""


class RunningMeanStd:
    """As copied into many projects."""

    mean = 0.0


class Copied(VectorWrapper):
    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        self.statistics = {"observation": RunningMeanStd()}


class Plain(gymnasium.Env[Any, Any]):
    observation_space = spaces.Box(0, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed, options=options)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:  # noqa: ARG002
        return np.zeros(2, np.float32), 1.0, False, False, {}


def kept(env: VectorEnv) -> VectorEnv:
    return Kept(env)


def copied(env: VectorEnv) -> VectorEnv:
    return Copied(vector_wrappers.RescaleAction(env, -1, 1) if isinstance(env.action_space, spaces.Box) else env)


def steady(env: VectorEnv) -> VectorEnv:
    return vector_wrappers.ClipReward(env, -1, 1)


def normalizing(num_envs: int) -> VectorEnv:
    return SyncVectorEnv([lambda: NormalizeReward(Plain())] * num_envs)


def normalized(**_: Any) -> gymnasium.Env[Any, Any]:
    return NormalizeObservation(Plain())


gymnasium.register("Normalizing-v0", normalized)
gymnasium.register(
    "Specified-v0",
    "learning_wrappers:Plain",
    additional_wrappers=(WrapperSpec("normalize", "gymnasium.wrappers:NormalizeReward", {"gamma": 0.9}),),
)
