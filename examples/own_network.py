"""A network of your own by name.

python examples/own_network.py
"""

from __future__ import annotations

import torch
from torch import nn

import machina
from machina.nets.config import NetworkConfig
from machina.nets.network import CoreTensors, NetworkInput, NetworkOutput, PolicyNetwork
from machina.specs import EnvSpec


class SmallNetwork(PolicyNetwork):
    """One hidden layer for vectors; no core state."""

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        size = spec.observation["observation"].shape[0]
        self.core_state_shapes = ()
        self.hidden = nn.Linear(size, 64)
        self.policy_head = nn.Linear(64, spec.action.num_parameters)
        self.value_head = nn.Linear(64, spec.num_tasks)

    def forward(self, inputs: NetworkInput, core_state: CoreTensors) -> NetworkOutput:
        """``[T, B, size]`` observations to logits and values."""
        features = torch.tanh(self.hidden(inputs.observation["observation"]))
        return NetworkOutput(self.policy_head(features), self.value_head(features), core_state)


def build(spec: EnvSpec, config: NetworkConfig) -> PolicyNetwork:  # noqa: ARG001 (this network has no options)
    """What ``register_network`` is given."""
    return SmallNetwork(spec)


if __name__ == "__main__":
    machina.register_network("small", build)
    run = machina.train("impala", "catch", minutes=0.5, network_name="small")
    print(machina.evaluate(run.path, episodes=50).mean_returns)
