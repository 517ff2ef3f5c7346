"""How an IMPALA actor picks actions: samples of the policy, one random stream per slot."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from machina.algorithms.impala.config import ImpalaConfig
from machina.algorithms.impala.networks import load_flat, load_tensors, make_network
from machina.nets.network import NetworkInput, NetworkOutput
from machina.nets.precision import resolve_device, resolve_precision
from machina.specs import EnvSpec
from machina.types import NO_ACTION, ActorOutput, Array, CoreState, FloatArray, IntArray, Observation


class ImpalaPolicy:
    """The behaviour policy; implements ``machina.interfaces.Policy``.

    The core state starts from zero wherever the previous action is ``NO_ACTION``.
    """

    def __init__(self, config: ImpalaConfig, spec: EnvSpec, device: str, precision: str) -> None:
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        self.network = make_network(config, spec, self.device, seed=0).requires_grad_(False).eval()
        self.network.cast_for_acting(self.precision.dtype)

    def initial_core_state(self, num_slots: int) -> CoreState:
        """Zeros, ``[num_slots, ...]`` each."""
        return tuple(np.zeros((num_slots, *shape), np.float32) for shape in self.network.core_state_shapes)

    def act(
        self,
        observation: Observation,
        reward: FloatArray,
        previous_action: IntArray,
        core_state: CoreState,
        uniforms: FloatArray,
    ) -> ActorOutput:
        """Answer B slots; see ``machina.interfaces.Policy``."""
        with torch.inference_mode(), self.precision.autocast(self.device):
            previous = self._tensor(previous_action)
            inputs = NetworkInput(
                observation={key: self._tensor(array)[None] for key, array in observation.items()},
                reward=self._tensor(reward)[None],
                previous_action=previous[None],
                first=(previous == NO_ACTION)[None],
            )
            output: NetworkOutput = self.network(inputs, tuple(self._tensor(state) for state in core_state))
            logits = output.logits[0]
            actions = sampled(logits, self._tensor(uniforms))
            return ActorOutput(
                action=actions.cpu().numpy(),
                behaviour_logits=logits.cpu().numpy(),
                core_state=tuple(state.cpu().numpy() for state in output.core_state),
            )

    def load_parameters(self, parameters: Tensor) -> None:
        """Copy a published flat vector into the network."""
        load_flat(self.network, parameters)

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy a checkpoint's named tensors into the network.

        Raises:
            UserError: they belong to another network.
        """
        load_tensors(self.network, tensors)

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self.device)


def sampled(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Actions ``[B]`` by the inverse of the cumulative distribution of softmax(``logits`` ``[B, A]``).

    One uniform number in [0, 1) per slot keeps a slot's actions independent of how slots are grouped.
    """
    cumulative = torch.softmax(logits, dim=-1).cumsum(dim=-1)
    actions = (cumulative <= uniforms.unsqueeze(-1)).sum(dim=-1)
    # Rounding may leave the last sum below a uniform number close to 1.
    return actions.clamp(max=logits.shape[-1] - 1)
