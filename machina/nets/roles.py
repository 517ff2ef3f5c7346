"""A network of its own for every role."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from machina.nets.config import NetworkConfig
from machina.nets.network import ActorCritic, CoreTensors, NetworkInput, NetworkOutput, PolicyNetwork
from machina.specs import EnvSpec
from machina.types import ACTION_MASK


class RoleNetworks(PolicyNetwork):
    """Sends every slot to the network of its role; nothing is learned across roles.

    Of the value head each role trains its own row only, as its slots read no other; so one layer serves all, and PopArt
    finds it where it always is.
    """

    def __init__(self, spec: EnvSpec, config: NetworkConfig) -> None:
        """Raises UserError when the torso or the filter asked for does not suit the observation."""
        super().__init__()
        networks = [ActorCritic(spec, config) for _ in spec.tasks]
        self.core_state_shapes = networks[0].core_state_shapes
        self.value_head = networks[0].value_head
        for network in networks:
            network.value_head = self.value_head
        self.roles = nn.ModuleList(networks)

    def forward(self, inputs: NetworkInput, core_state: CoreTensors) -> NetworkOutput:
        """Read T entries of B slots, of which at least one is needed; the action mask is left to the caller."""
        roles = inputs.task_id[0]
        slots_of = [(roles == role).nonzero().flatten() for role in range(len(self.roles))]
        answers: list[NetworkOutput] = [
            network(_slots(inputs, slots), tuple(state[slots] for state in core_state))
            for network, slots in zip(self.roles, slots_of, strict=True)
            if len(slots)
        ]
        back = torch.cat(slots_of).argsort()
        return NetworkOutput(
            logits=torch.cat([answer.logits for answer in answers], dim=1)[:, back],
            values=torch.cat([answer.values for answer in answers], dim=1)[:, back],
            core_state=tuple(
                torch.cat(states)[back] for states in zip(*(answer.core_state for answer in answers), strict=True)
            ),
        )

    def cast_torso(self, dtype: torch.dtype) -> None:
        """As every role's network does it."""
        for network in self.roles:
            assert isinstance(network, ActorCritic)
            network.cast_torso(dtype)


def _slots(inputs: NetworkInput, slots: Tensor) -> NetworkInput:
    """Some slots, without the action mask, which is applied once to all."""
    return NetworkInput(
        observation={key: tensor[:, slots] for key, tensor in inputs.observation.items() if key != ACTION_MASK},
        reward=inputs.reward[:, slots],
        previous_action=inputs.previous_action[:, slots],
        first=inputs.first[:, slots],
        task_id=inputs.task_id[:, slots],
    )
