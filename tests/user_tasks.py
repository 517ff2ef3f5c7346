"""A user's own environments and wrappers, as they would lie in the working directory."""

import importlib
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorObservationWrapper, VectorRewardWrapper
from gymnasium.vector.utils import batch_space


class Corridor(gymnasium.Env):
    """Five steps to the right end the episode with reward 1; `trouble` strikes at the third step."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, trouble: str = "", render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(0.0, 10.0, (2,), np.float64)
        self.action_space = spaces.Discrete(2)
        self.trouble, self.render_mode = trouble, render_mode
        self.position = self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:  # noqa: ARG002
        super().reset(seed=seed)
        self.position = self.steps = 0
        return np.array([0.0, self.np_random.random()]), {}

    def step(self, action: Any) -> Any:
        self.position += int(action)
        self.steps += 1
        observation = np.array([self.position, 0.0])
        reward = float(self.position == 5)
        if self.steps == 3:
            if self.trouble == "raises":
                raise RuntimeError("the engine stalled\nsecond line")
            if self.trouble == "sleeps":
                time.sleep(600)
            if self.trouble == "nan":
                observation[1] = np.nan
            if self.trouble == "huge":
                observation[1] = 1e39
            if self.trouble == "nan_reward":
                reward = float("nan")
            if self.trouble == "shape":
                observation = np.zeros(3)
        return observation, reward, self.position == 5, False, {}

    def render(self) -> Any:
        return None if self.render_mode is None else np.full((4, 6, 3), self.position, dtype=np.uint8)


class Masked(Corridor):
    """A corridor with a mask of bytes, as most write it; to the left only at its end, nowhere if in `trouble`."""

    def __init__(self, trouble: str = "", render_mode: str | None = None) -> None:
        super().__init__(trouble, render_mode)
        mask = spaces.MultiBinary(2) if trouble == "binary" else spaces.Box(0, 1, (2,), np.int8)
        self.observation_space = spaces.Dict({"observation": self.observation_space, "action_mask": mask})

    def _masked(self, observation: Any) -> Any:
        nowhere = self.trouble == "helpless" and self.steps == 3
        return {"observation": observation, "action_mask": np.array([0, not nowhere], np.int8)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observation, infos = super().reset(seed=seed, options=options)
        return self._masked(observation), infos

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        return self._masked(observation), *rest


class Drawn(Corridor):
    """A corridor that is drawn badly: `trouble` says how."""

    def render(self) -> Any:
        if self.trouble == "library":
            importlib.import_module("no_such_library")
        if self.trouble == "raises":
            raise RuntimeError("no display\nsecond line")
        if self.trouble == "nothing":
            raise NotImplementedError
        return "ansi"


class NotDrawn(Corridor):
    def __init__(self) -> None:
        super().__init__()


class NeedsKey(Corridor):
    def __init__(self) -> None:
        raise KeyError("LICENCE")


for name in ("", "raises", "sleeps", "nan", "huge", "nan_reward", "shape"):
    title = name.title().replace("_", "")
    gymnasium.register(f"Corridor{title}-v0", "user_tasks:Corridor", max_episode_steps=20, kwargs={"trouble": name})
for name in ("library", "raises", "nothing", "text"):
    gymnasium.register(f"Drawn{name.title()}-v0", "user_tasks:Drawn", kwargs={"trouble": name})
for name in ("bytes", "binary", "helpless"):
    gymnasium.register(f"Masked{name.title()}-v0", "user_tasks:Masked", kwargs={"trouble": name})
gymnasium.register("NotDrawn-v0", "user_tasks:NotDrawn")
gymnasium.register("NeedsKey-v0", "user_tasks:NeedsKey")


class Halved(VectorRewardWrapper):
    def rewards(self, reward: Any) -> Any:
        return reward / 2


class Inverted(VectorObservationWrapper):
    def observations(self, observations: Any) -> Any:
        return 255 - observations


class Named(VectorObservationWrapper):
    """A flat Dict observation of the plain one."""

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        single = spaces.Dict({"first": env.single_observation_space, "second": env.single_observation_space})
        self.single_observation_space = single
        self.observation_space = batch_space(single, env.num_envs)

    def observations(self, observations: Any) -> Any:
        return {"first": observations, "second": 2 * observations}


def halved(env: VectorEnv) -> VectorEnv:
    return Halved(env)


def inverted(env: VectorEnv) -> VectorEnv:
    return Inverted(env)


def named(env: VectorEnv) -> VectorEnv:
    return Named(env)


class Shifted(VectorRewardWrapper):
    def rewards(self, reward: Any) -> Any:
        return reward - 1


def shifted(env: VectorEnv) -> VectorEnv:
    return Shifted(env)


def fails(env: VectorEnv) -> VectorEnv:
    return env.seasons  # type: ignore[attr-defined, no-any-return]


def forgets_to_return(env: VectorEnv) -> None:
    Halved(env)


def corridors(num_envs: int) -> VectorEnv:
    return SyncVectorEnv([Corridor] * num_envs)


def same_step_corridors(num_envs: int) -> VectorEnv:
    return SyncVectorEnv([Corridor] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
