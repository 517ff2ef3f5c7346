"""Networks by name, and their construction."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from machina.errors import RAISED, RunFailedError, UserError, in_one_line_with_place, nearest
from machina.nets.config import NetworkConfig, QNetworkConfig, TorsoConfig, ValueNetworkConfig
from machina.nets.network import ActorCritic, NetworkContract, NetworkInput, PolicyNetwork
from machina.nets.observation_filter import ObservationFilter
from machina.nets.q_network import QNetwork
from machina.nets.roles import RoleNetworks
from machina.nets.value_network import ValueNetwork
from machina.plugins import load_function
from machina.specs import EnvSpec
from machina.types import ACTION_MASK

N = TypeVar("N", bound=nn.Module)

NetworkBuilder = Callable[[EnvSpec, NetworkConfig], PolicyNetwork]

NETWORKS: dict[str, NetworkBuilder] = {}
"""Users' networks; ``--network-name NAME`` picks one, ``module:function`` is imported. Else it is ``ActorCritic``,
or one for each role."""

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
    """The actor-critic network for an environment, float32, on the CPU, its weights drawn from ``seed``.

    Convolution weights are channels-last. PyTorch's global random stream is left as it was.

    Raises:
        UserError: an unknown name, a network that breaks the contract of ``PolicyNetwork``, or an action mask that
            does not fit the actions.
    """
    name = config.network_name
    if name is not None:
        build = _find(name)
        return _started(spec, seed, lambda: _built(name, build, spec, config))
    return _started(spec, seed, lambda: (RoleNetworks if config.separate_roles else ActorCritic)(spec, config))


def build_q_network(spec: EnvSpec, config: QNetworkConfig, seed: int) -> QNetwork:
    """The Q-network for an environment; see ``build_network``.

    Raises:
        UserError: the actions are not one choice, or the torso does not suit the observation.
    """
    _check_choice(spec)
    return _started(spec, seed, lambda: QNetwork(spec, config))


def build_value_network(spec: EnvSpec, config: ValueNetworkConfig, seed: int) -> ValueNetwork:
    """The network of an algorithm with a replay; see ``build_q_network``."""
    _check_choice(spec)
    return _started(spec, seed, lambda: ValueNetwork(spec, config))


def _check_choice(spec: EnvSpec) -> None:
    if spec.action.kind != "discrete":
        raise UserError(
            f"environment {spec.name!r}: a Q-network needs one choice among actions, these are {spec.action.kind}; use "
            "ppo, which learns numbers, or choices of each with --action-bins"
        )


def network_for(spec: EnvSpec, config: TorsoConfig, seed: int) -> PolicyNetwork | QNetwork:
    """The network that the options describe."""
    if isinstance(config, ValueNetworkConfig):
        return build_value_network(spec, config, seed)
    if isinstance(config, QNetworkConfig):
        return build_q_network(spec, config, seed)
    assert isinstance(config, NetworkConfig)
    return build_network(spec, config, seed)


def _started(spec: EnvSpec, seed: int, build: Callable[[], N]) -> N:
    _check_mask(spec)
    with _BUILDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build()
    channels_last: N = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return channels_last


def _check_mask(spec: EnvSpec) -> None:
    if ACTION_MASK not in spec.observation:
        return
    if spec.action.kind == "continuous":
        raise UserError(f"environment {spec.name!r}: an {ACTION_MASK} needs discrete actions, these are continuous")
    shape, got = (spec.action.num_parameters,), spec.observation[ACTION_MASK]
    if not got.holds(shape, "bool"):
        raise UserError(
            f"environment {spec.name!r}: {ACTION_MASK} must be bool {shape}, one for each choice, "
            f"got {got.dtype} {got.shape}"
        )


def _find(name: str) -> NetworkBuilder:
    if name in NETWORKS:
        return NETWORKS[name]
    if ":" in name:
        return load_function(name, "network_name")
    known = ", ".join(sorted(NETWORKS)) or "none"
    hint = nearest(name, NETWORKS)
    raise UserError(f"network {name!r} is unknown (registered: {known}; or give module:function){hint}")


def _built(name: str, build: NetworkBuilder, spec: EnvSpec, config: NetworkConfig) -> PolicyNetwork:
    """A user's network that keeps the contract.

    Raises:
        UserError: it does not, or can't be built.
    """
    try:
        network = build(spec, config)
    except UserError:
        raise
    except RAISED as error:
        reason = in_one_line_with_place(error, getattr(build, "__module__", ""))
        raise UserError(f"network {name!r}: the builder raised {reason}") from error
    _check_parts(name, network, spec)
    if config.observation_filter and not any(isinstance(module, ObservationFilter) for module in network.modules()):
        raise UserError(
            f"observation_filter: network {name!r} holds no ObservationFilter (machina.nets.observation_filter); give "
            "it one, or leave the option off"
        )
    network.contract = NetworkContract(name, spec.action.num_parameters, spec.num_tasks)
    # One entry as in acting, several as in learning, and a single slot, where a `squeeze` too many shows.
    for entries, slots in ((1, 2), (3, 2), (1, 1)):
        _ask(network, spec, entries, slots)
    return network


def _check_parts(name: str, network: object, spec: EnvSpec) -> None:
    """What can be said of a user's network without calling it."""
    if not isinstance(network, PolicyNetwork):
        raise UserError(f"network {name!r}: the builder must return a PolicyNetwork, got {type(network).__name__}")
    value_head = getattr(network, "value_head", None)
    if not isinstance(value_head, nn.Linear) or value_head.out_features != spec.num_tasks:
        raise UserError(f"network {name!r}: value_head must be a Linear layer with {spec.num_tasks} outputs")
    if not isinstance(getattr(network, "core_state_shapes", None), tuple):
        raise UserError(f"network {name!r}: core_state_shapes must be a tuple of shapes, () without a core state")
    if buffers := [buffer for buffer, _ in network.named_buffers()]:
        raise UserError(f"network {name!r}: buffers {buffers} would not reach the actors; make them parameters")


def _ask(network: PolicyNetwork, spec: EnvSpec, entries: int, slots: int) -> None:
    """Call a user's network once, so that a mistake is named before the run starts."""
    inputs = NetworkInput(
        observation={
            key: torch.zeros((entries, slots, *array.shape), dtype=getattr(torch, array.dtype))
            for key, array in spec.observation.items()
        },
        reward=torch.zeros(entries, slots),
        previous_action=torch.from_numpy(spec.action.none(slots)).repeat(entries, 1, *[1] * len(spec.action.shape)),
        first=torch.ones(entries, slots, dtype=torch.bool),
        task_id=torch.zeros(entries, slots, dtype=torch.int64),
    )
    core_state = tuple(torch.zeros(slots, *shape) for shape in network.core_state_shapes)
    try:
        with torch.no_grad():
            network(inputs, core_state)
    except RunFailedError as error:
        raise UserError(str(error)) from error
