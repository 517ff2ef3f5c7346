"""Wrappers and environments that learn from what passes through them, and one that does not."""

import threading
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


class Held(Plain):
    """Holds what wrappers and vector environments call ``env`` and ``envs``, and what is all of these.

    Args:
        kind: an engine whose objects have no attributes; itself; single environments by name; parts that know their
            whole.
    """

    def __init__(self, kind: str, render_mode: str | None = None) -> None:  # noqa: ARG002
        self.env: Any = {"engine": threading.Lock(), "itself": self}.get(kind)
        self.envs = {"left": Plain()} if kind == "by_name" else None
        self.tree: dict[str, Any] = {}
        self.tree["parts"] = [{"whole": self.tree}]


def kept(env: VectorEnv) -> VectorEnv:
    return Kept(env)


def copied(env: VectorEnv) -> VectorEnv:
    return Copied(vector_wrappers.RescaleAction(env, -1, 1) if isinstance(env.action_space, spaces.Box) else env)


def halved(env: VectorEnv) -> VectorEnv:
    return vector_wrappers.ClipReward(env, -0.5, 0.5)


def normalizing(num_envs: int) -> VectorEnv:
    return SyncVectorEnv([lambda: NormalizeReward(Plain())] * num_envs)


def normalized(**_: Any) -> gymnasium.Env[Any, Any]:
    return NormalizeObservation(Plain())


HELD = ("engine", "itself", "by_name", "whole")
for kind in HELD:
    gymnasium.register(f"Held_{kind}-v0", "learning_wrappers:Held", kwargs={"kind": kind})
gymnasium.register("Normalizing-v0", normalized)
gymnasium.register(
    "Specified-v0",
    "learning_wrappers:Plain",
    additional_wrappers=(WrapperSpec("normalize", "gymnasium.wrappers:NormalizeReward", {"gamma": 0.9}),),
)
