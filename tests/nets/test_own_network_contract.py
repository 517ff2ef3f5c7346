"""What a user's network must keep to, whatever the environment's actions are."""

from collections.abc import Callable, Iterator

import pytest
import torch
from network_cases import ACTIONS, DISCRETE, make_spec, random_inputs, spec_of, with_mask, zero_state
from torch import nn

from machina.errors import RunFailedError, UserError
from machina.nets.build import NETWORKS, build_network, register_network
from machina.nets.config import NetworkConfig
from machina.nets.distributions import FORBIDDEN
from machina.nets.network import CoreTensors, NetworkInput, NetworkOutput, PolicyNetwork
from machina.specs import ArraySpec, EnvSpec
from machina.types import ACTION_MASK

VECTOR = {"observation": ArraySpec(shape=(6,), dtype="float32")}


class OwnNetwork(PolicyNetwork):
    """A user's network with a counter as its core state."""

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        self.core_state_shapes = ((1,),)
        self.body = nn.Linear(spec.observation["observation"].shape[0], 4)
        self.policy = nn.Linear(4, spec.action.num_parameters)
        self.value_head = nn.Linear(4, spec.num_tasks)

    def forward(self, inputs: NetworkInput, core_state: CoreTensors) -> NetworkOutput:
        features = self.body(inputs.observation["observation"].float()).relu()
        return NetworkOutput(self.policy(features), self.value_head(features), (core_state[0] + 1,))


class OneHead(OwnNetwork):
    """Of two tasks."""

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__(spec)
        self.value_head = nn.Linear(4, 1)


class ShortLogits(OwnNetwork):
    """One too few."""

    def forward(self, inputs: NetworkInput, core_state: CoreTensors) -> NetworkOutput:
        output = super().forward(inputs, core_state)
        return output._replace(logits=output.logits[..., :-1])


class WithBuffer(OwnNetwork):
    """One that actors would never get."""

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__(spec)
        self.register_buffer("running_mean", torch.zeros(3))


class ReadsActions(OwnNetwork):
    """Refuses previous actions that are not those of the spec."""

    def forward(self, inputs: NetworkInput, core_state: CoreTensors) -> NetworkOutput:
        inputs.previous_action.reshape(*inputs.reward.shape, 3)
        assert inputs.task_id.shape == inputs.reward.shape
        return super().forward(inputs, core_state)


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    before = dict(NETWORKS)
    yield
    NETWORKS.clear()
    NETWORKS.update(before)


def built(network: Callable[[EnvSpec], PolicyNetwork], spec: EnvSpec) -> PolicyNetwork:
    NETWORKS.pop("own", None)
    register_network("own", lambda spec, _: network(spec))
    return build_network(spec, NetworkConfig(network_name="own"), seed=0)


def test_a_users_network_by_name() -> None:
    spec = make_spec("float32", observation=(6,))
    assert isinstance(built(OwnNetwork, spec), OwnNetwork)
    with pytest.raises(UserError, match="did you mean 'own'"):
        build_network(spec, NetworkConfig(network_name="onw"), seed=0)
    with pytest.raises(UserError, match="registered already"):
        register_network("own", lambda spec, _: OwnNetwork(spec))


@pytest.mark.parametrize("kind", sorted(ACTIONS))
@pytest.mark.parametrize(
    ("network", "complaint"),
    [(OneHead, "2 outputs"), (ShortLogits, r"\(1, 2, {parameters}\)"), (WithBuffer, "running_mean")],
)
def test_one_that_breaks_the_contract_is_refused_in_one_line(
    network: Callable[[EnvSpec], PolicyNetwork], complaint: str, kind: str
) -> None:
    spec = spec_of(VECTOR, action=ACTIONS[kind])
    with pytest.raises(UserError, match=complaint.format(parameters=spec.action.num_parameters)) as caught:
        built(network, spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", sorted(ACTIONS))
def test_it_is_asked_with_the_shapes_of_the_run(kind: str) -> None:
    spec = spec_of(VECTOR, action=ACTIONS[kind])
    if spec.action.shape != (3,):
        with pytest.raises(UserError, match="own': forward raised RuntimeError: shape"):
            built(ReadsActions, spec)
        return
    assert isinstance(built(ReadsActions, spec), ReadsActions)


def test_masks_are_applied_to_its_answers_too() -> None:
    spec = with_mask(spec_of(VECTOR, action=DISCRETE))
    network = built(OwnNetwork, spec)
    inputs = random_inputs(spec, 3, 4)
    allowed = inputs.observation[ACTION_MASK]
    logits = network(inputs, zero_state(network, 4)).logits
    assert torch.equal(logits[allowed], network.forward(inputs, zero_state(network, 4)).logits[allowed])
    assert (logits[~allowed] == FORBIDDEN).all()


def test_one_that_answers_fewer_actions_than_the_mask_is_named_later_too() -> None:
    spec = with_mask(spec_of(VECTOR, action=DISCRETE))
    network = built(OwnNetwork, spec)
    network.get_submodule("policy").weight = nn.Parameter(torch.zeros(4, 4))
    network.get_submodule("policy").bias = nn.Parameter(torch.zeros(4))
    with pytest.raises(RunFailedError, match=r"network 'own': .*\(3, 4, 5\).*got \[\(3, 4, 4\)"):
        network(random_inputs(spec, 3, 4), zero_state(network, 4))
