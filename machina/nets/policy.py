"""How an actor picks actions with a network; one random stream per slot."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from machina.nets.build import build_network
from machina.nets.config import NetworkConfig
from machina.nets.distributions import distribution_of
from machina.nets.network import Network, NetworkInput, PolicyNetwork
from machina.nets.parameters import FILTER, POPART, check_names, load_flat, load_tensors
from machina.nets.precision import resolve_device, resolve_precision
from machina.specs import EnvSpec
from machina.types import BEHAVIOUR_LOGITS, ActorInput, ActorOutput, Array, CoreState

N = TypeVar("N", bound=Network[Any])


class NetworkPolicy(Generic[N]):
    """What the policies of all algorithms have in common: a network on the actor's device. Picks no actions yet.

    Args:
        network: float32, on the CPU.
        spec: of the environment.
        device: to act on.
        precision: ``auto``, ``float32`` or ``bfloat16``.
    """

    def __init__(self, network: N, spec: EnvSpec, device: str, precision: str) -> None:
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device, spec.observation_bytes)
        # Work of one stream is done in order: on the learner's, every action would wait for the update under way.
        self._stream: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            self._stream = torch.cuda.Stream(self.device, priority=-1)  # type: ignore[no-untyped-call]
        with self._on_own_stream():
            self.network: N = network.to(self.device).requires_grad_(False).eval()
            self.network.cast_torso(self.precision.dtype)

    def initial_core_state(self, num_slots: int) -> CoreState:
        """Zeros, ``[num_slots, ...]`` each."""
        return tuple(np.zeros((num_slots, *shape), np.float32) for shape in self.network.core_state_shapes)

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy a checkpoint's named tensors into the network.

        Raises:
            UserError: they belong to another network.
        """
        check_names(tensors, dict(self.network.named_parameters()), kept_apart=(POPART, FILTER))
        with self._on_own_stream():
            load_tensors(self.network, tensors)

    def _load_flat(self, parameters: Tensor) -> None:
        with self._on_own_stream():
            load_flat(self.network, parameters)

    def _entry(self, inputs: ActorInput) -> tuple[NetworkInput, tuple[Tensor, ...]]:
        """What the network reads, as one entry, and the core state."""
        entry = NetworkInput(
            observation={key: self._tensor(array)[None] for key, array in inputs.observation.items()},
            reward=self._tensor(inputs.reward)[None],
            previous_action=self._tensor(inputs.previous_action)[None],
            first=self._tensor(inputs.first)[None],
            task_id=self._tensor(inputs.task_id)[None],
        )
        return entry, tuple(self._tensor(state) for state in inputs.core_state)

    def _on_own_stream(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self.device)


class SampledPolicy(NetworkPolicy[PolicyNetwork]):
    """The policy of the actor-critic algorithms; implements ``machina.interfaces.Policy``."""

    def __init__(self, config: NetworkConfig, spec: EnvSpec, device: str, precision: str) -> None:
        super().__init__(build_network(spec, config, seed=0), spec, device, precision)
        self._distribution = distribution_of(spec.action)

    def act(self, inputs: ActorInput) -> ActorOutput:
        """Act for B slots; see ``machina.interfaces.Policy``."""
        with self._on_own_stream(), torch.inference_mode(), self.precision.autocast(self.device):
            output = self.network(*self._entry(inputs))
            parameters = output.logits[0]
            actions = self._distribution.sampled(parameters, self._tensor(inputs.uniforms))
            return ActorOutput(
                action=actions.cpu().numpy(),
                policy_outputs={BEHAVIOUR_LOGITS: parameters.cpu().numpy()},
                core_state=tuple(state.cpu().numpy() for state in output.core_state),
            )

    def load_parameters(self, parameters: Tensor, done: float) -> None:  # noqa: ARG002 (it explores by its entropy)
        """Copy a published flat vector into the network."""
        self._load_flat(parameters)
