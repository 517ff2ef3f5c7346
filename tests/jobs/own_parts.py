"""A user's own network and environment, as they would lie in the working directory."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv, VectorEnv
from torch import nn

from machina.nets.config import NetworkConfig
from machina.nets.network import CoreTensors, NetworkInput, NetworkOutput, PolicyNetwork
from machina.specs import EnvSpec


class Tiny(PolicyNetwork):
    """One hidden layer; remembers how many entries it saw since the episode's first."""

    def __init__(self, spec: EnvSpec, config: NetworkConfig) -> None:
        super().__init__()
        assert config.torso == "auto"
        self.core_state_shapes = ((1,),)
        self.hidden = nn.Linear(spec.observation["observation"].shape[0] + 1, 12)
        self.policy_head = nn.Linear(12, spec.action.num_parameters)
        self.value_head = nn.Linear(12, spec.num_tasks)

    def forward(self, inputs: NetworkInput, core_state: CoreTensors) -> NetworkOutput:
        (count,) = core_state
        counts = []
        for first in inputs.first:
            count = torch.where(first[:, None], 0.0, count) + 1
            counts.append(count)
        features = torch.cat([inputs.observation["observation"], torch.stack(counts)], dim=-1)
        hidden = torch.tanh(self.hidden(features))
        return NetworkOutput(self.policy_head(hidden), self.value_head(hidden), (count,))


def tiny(spec: EnvSpec, config: NetworkConfig) -> PolicyNetwork:
    return Tiny(spec, config)


class Guess(gymnasium.Env[Any, Any]):
    """Say 1 when the light is on; five steps."""

    observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed, options=options)
        self._steps = 0
        return self._light(), {}

    def _light(self) -> Any:
        self._on = int(self.np_random.integers(2))
        return np.array([self._on], np.float32)

    def step(self, action: Any) -> Any:
        reward = float(action == self._on)
        self._steps += 1
        return self._light(), reward, self._steps == 5, False, {}


def guesses(num_slots: int) -> VectorEnv[Any, Any, Any]:
    return SyncVectorEnv([Guess] * num_slots)
