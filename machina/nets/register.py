"""Networks by name, and their construction."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import nn

from machina.errors import UserError, nearest
from machina.nets.config import NetworkConfig
from machina.nets.network import ActorCritic, NetworkInput, NetworkOutput, PolicyNetwork
from machina.plugins import load_function
from machina.specs import EnvSpec
from machina.types import NO_ACTION

NetworkBuilder = Callable[[EnvSpec, NetworkConfig], PolicyNetwork]

NETWORKS: dict[str, NetworkBuilder] = {}
"""Users' networks; ``--network-name NAME`` picks one, ``module:function`` is imported. Else it is ``ActorCritic``."""

_BUILDING = threading.Lock()
"""Actors are built in threads, but weights are drawn from a generator that they share."""


def register_network(name: str, builder: NetworkBuilder) -> None:
    """Make a network available under ``name``.

    Raises:
        UserError: the name is taken by another builder.
    """
    if NETWORKS.setdefault(name, builder) is not builder:
        raise UserError(f"network {name!r} is registered already; choose another name")


def build_network(spec: EnvSpec, config: NetworkConfig, seed: int) -> PolicyNetwork:
    """The network for an environment, float32, on the CPU, its weights drawn from ``seed``.

    Convolution weights are channels-last. PyTorch's global random stream is left as it was.

    Raises:
        UserError: an unknown name, or a network that breaks the contract of ``PolicyNetwork``.
    """
    name = config.network_name
    build = ActorCritic if name is None else _find(name)
    with _BUILDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(spec, config)
    if name is not None:
        _check_contract(name, network, spec)
    channels_last: PolicyNetwork = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return channels_last


def _find(name: str) -> NetworkBuilder:
    if name in NETWORKS:
        return NETWORKS[name]
    if ":" in name:
        return load_function(name, "network_name")
    known = ", ".join(sorted(NETWORKS)) or "none"
    hint = nearest(name, NETWORKS)
    raise UserError(f"network {name!r} is unknown (registered: {known}; or give module:function){hint}")


def _check_contract(name: str, network: object, spec: EnvSpec) -> None:
    """Ask a user's network for one answer, so that a mistake is named before the run starts."""
    if not isinstance(network, PolicyNetwork):
        raise UserError(f"network {name!r}: the builder must return a PolicyNetwork, got {type(network).__name__}")
    value_head = getattr(network, "value_head", None)
    if not isinstance(value_head, nn.Linear) or value_head.out_features != spec.num_tasks:
        raise UserError(f"network {name!r}: value_head must be a Linear layer with {spec.num_tasks} outputs")
    if not isinstance(getattr(network, "core_state_shapes", None), tuple):
        raise UserError(f"network {name!r}: core_state_shapes must be a tuple of shapes, () without a core state")
    if buffers := [buffer for buffer, _ in network.named_buffers()]:
        raise UserError(f"network {name!r}: buffers {buffers} would not reach the actors; make them parameters")
    slots = 2
    inputs = NetworkInput(
        observation={
            key: torch.zeros((1, slots, *array.shape), dtype=getattr(torch, array.dtype))
            for key, array in spec.observation.items()
        },
        reward=torch.zeros(1, slots),
        previous_action=torch.full((1, slots), NO_ACTION),
        first=torch.ones(1, slots, dtype=torch.bool),
    )
    core_state = tuple(torch.zeros(slots, *shape) for shape in network.core_state_shapes)
    with torch.no_grad():
        output = network(inputs, core_state)
    if not isinstance(output, NetworkOutput):
        raise UserError(f"network {name!r}: forward must return a NetworkOutput, got {type(output).__name__}")
    expected = [(1, slots, spec.num_actions), (1, slots, spec.num_tasks), *(tuple(state.shape) for state in core_state)]
    got = [tuple(tensor.shape) for tensor in (output.logits, output.values, *output.core_state)]
    if got != expected:
        raise UserError(f"network {name!r}: logits, values and core state must have shapes {expected}, got {got}")
