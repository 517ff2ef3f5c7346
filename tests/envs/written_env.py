"""A vector environment whose answers are written beforehand, and the adapter on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from machina.envs.slots import GymnasiumSlots
from machina.specs import ArraySpec, EnvSpec, discrete
from machina.types import ACTION_MASK, Array

SLOTS = 3
SPEC = EnvSpec(
    name="written",
    tasks=("one", "two"),
    observation={"observation": ArraySpec(shape=(2,), dtype="float32")},
    action=discrete(4),
)
MASKED = SPEC.model_copy(update={"observation": SPEC.observation | {ACTION_MASK: ArraySpec(shape=(4,), dtype="bool")}})
ACTIONS = np.array([0, 3, 1])


class Written(VectorEnv[Any, Any, Any]):
    """Answers ``self.answer``, and records what it is asked."""

    def __init__(self, action_space: spaces.Space[Any] | None = None, mode: Any = AutoresetMode.NEXT_STEP) -> None:
        self.num_envs = SLOTS
        self.metadata = {"autoreset_mode": mode, "render_fps": 7}
        self.single_observation_space = spaces.Box(-100, 100, (2,), np.float32)
        self.single_action_space = action_space or spaces.Discrete(4)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, SLOTS)
        self.observation = np.zeros((SLOTS, 2), np.float32)
        self.answer: dict[str, Any] = {
            "reward": np.zeros(SLOTS),
            "terminated": np.zeros(SLOTS, bool),
            "truncated": np.zeros(SLOTS, bool),
        }
        self.infos: dict[str, Any] = {}
        self.asked: list[Any] = []

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:  # noqa: ARG002
        self.asked.append(seed)
        return self.observation, self.infos

    def step(self, actions: Any) -> Any:
        self.asked.append(actions)
        return (self.observation, *self.answer.values(), self.infos)

    def close_extras(self, **kwargs: Any) -> None:  # noqa: ARG002
        self.asked.append("close")


class Recoverable(Written):
    """Has all that an environment may offer beyond gymnasium's interface."""

    seed_per_slot = True
    fresh_observations = True
    waiting_for = ""

    def recover(self) -> Any:
        return self.answer.get("recovered")

    def get_state(self) -> dict[str, Array]:
        return {"level": np.array([7])}

    def set_state(self, state: Mapping[str, Array]) -> None:
        self.asked.append(state)

    def close_at_once(self) -> None:
        self.asked.append("close at once")


def slots(env: VectorEnv[Any, Any, Any] | None = None, spec: EnvSpec = SPEC, **options: Any) -> GymnasiumSlots:
    return GymnasiumSlots(env or Written(), spec, [0, 1, 0], **options)


def flags(*which: int) -> Array:
    return np.isin(np.arange(SLOTS), which)
