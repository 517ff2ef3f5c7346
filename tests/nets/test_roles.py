"""Separate networks by role: slots go to the network of their role, and nothing crosses over."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from network_cases import (
    ACTIONS,
    assert_unroll_equals_single_steps,
    random_inputs,
    random_state,
    slots_of,
    spec_of,
    with_mask,
)
from torch import Tensor, nn

from machina.learner.popart import PopArt
from machina.nets.build import build_network
from machina.nets.config import NetworkConfig
from machina.nets.network import ActorCritic, NetworkInput
from machina.nets.parameters import flattened, load_flat
from machina.nets.roles import RoleNetworks
from machina.specs import ArraySpec, EnvSpec

VECTOR = {"observation": ArraySpec(shape=(6,), dtype="float32")}
ROLES = 3
SPEC = spec_of(VECTOR, num_tasks=ROLES)


def role_networks(spec: EnvSpec = SPEC, seed: int = 0, lstm_size: int = 0) -> RoleNetworks:
    network = build_network(
        spec, NetworkConfig(separate_roles=True, lstm_size=lstm_size, hidden_sizes=(16,)), seed=seed
    )
    assert isinstance(network, RoleNetworks)
    return network


def inputs_of(spec: EnvSpec, T: int, roles: list[int]) -> NetworkInput:  # noqa: N803
    return random_inputs(spec, T, len(roles), resets=0.2)._replace(task_id=torch.tensor(roles).expand(T, len(roles)))


@pytest.mark.parametrize("lstm_size", [0, 8])
@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.parametrize("kind", sorted(ACTIONS))
@pytest.mark.parametrize("roles", [[0, 1, 2], [2, 0, 2, 1, 0, 0, 1], [1, 1], [2, 0], [1]])
def test_every_slot_is_answered_by_the_network_of_its_role(
    roles: list[int],
    kind: str,
    T: int,  # noqa: N803
    lstm_size: int,
) -> None:
    torch.manual_seed(0)
    spec = spec_of(VECTOR, num_tasks=ROLES, action=ACTIONS[kind])
    network = role_networks(spec, lstm_size=lstm_size)
    inputs = inputs_of(spec, T, roles)
    state = random_state(network, len(roles))
    whole = network(inputs, state)
    for slot, role in enumerate(roles):
        own = cast(ActorCritic, network.roles[role])
        alone = own(slots_of(inputs, torch.tensor([slot])), tuple(part[slot : slot + 1] for part in state))
        torch.testing.assert_close(whole.logits[:, slot], alone.logits[:, 0])
        torch.testing.assert_close(whole.values[:, slot], alone.values[:, 0])
        assert len(whole.core_state) == (2 if lstm_size else 0)
        for got, expected in zip(whole.core_state, alone.core_state, strict=True):
            torch.testing.assert_close(got[slot], expected[0])
    other = (roles[0] + 1) % ROLES
    moved = network(inputs._replace(task_id=inputs.task_id.clone().index_fill_(1, torch.tensor([0]), other)), state)
    assert not torch.allclose(moved.logits[:, 0], whole.logits[:, 0])


@pytest.mark.parametrize("kind", sorted(ACTIONS))
def test_an_unroll_equals_acting_step_by_step(kind: str) -> None:
    torch.manual_seed(1)
    spec = spec_of(VECTOR, num_tasks=ROLES, action=ACTIONS[kind])
    inputs = inputs_of(spec, 9, [2, 0, 0, 1, 2])
    assert inputs.first[1:].any()
    assert_unroll_equals_single_steps(role_networks(spec, lstm_size=8), inputs)


def test_a_shared_network_does_not_read_the_task() -> None:
    network = build_network(SPEC, NetworkConfig(lstm_size=8), seed=0)
    inputs = inputs_of(SPEC, 3, [0, 1, 2, 2])
    state = random_state(network, 4)
    moved = inputs._replace(task_id=2 - inputs.task_id)
    assert torch.equal(network(inputs, state).logits, network(moved, state).logits)


def own_values(values: Tensor, task_id: Tensor) -> Tensor:
    return values.gather(-1, task_id.unsqueeze(-1)).squeeze(-1)


def test_gradients_reach_the_role_that_acted_and_no_other() -> None:
    network = role_networks()
    inputs = inputs_of(SPEC, 4, [1, 1, 1])
    output = network(inputs, ())
    torch.autograd.backward(output.logits.square().sum() + own_values(output.values, inputs.task_id).sum())
    touched = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert touched == {"value_head.weight", "value_head.bias"} | {
        f"roles.1.{name}" for name, _ in network.roles[1].named_parameters() if not name.startswith("value_head")
    }
    gradient = network.value_head.weight.grad
    assert gradient is not None
    assert gradient[1].abs().sum() > 0
    assert gradient[[0, 2]].abs().sum() == 0


def test_popart_keeps_every_roles_values() -> None:
    torch.manual_seed(0)
    network = role_networks(lstm_size=8)
    inputs = inputs_of(SPEC, 5, [0, 1, 2, 1])
    state, task_id = random_state(network, 4), inputs.task_id[0]
    popart = PopArt(ROLES, beta=0.3)

    def unnormalized() -> Tensor:
        values = own_values(network(inputs, state).values.detach(), inputs.task_id)
        return popart.unnormalized(values, task_id)

    before = unnormalized()
    targets = torch.randn(5, 4) * torch.tensor([1.0, 100.0, 0.01])[task_id]
    popart.update(popart.statistics(targets, task_id, torch.ones(5, 4, dtype=torch.bool)), network.value_head)
    assert not torch.allclose(popart.sigma, torch.ones(ROLES, dtype=torch.float64), rtol=1e-3)
    torch.testing.assert_close(unnormalized(), before, rtol=1e-5, atol=1e-5)


def test_the_published_vector_holds_every_parameter_once() -> None:
    one, other = role_networks(seed=0, lstm_size=8), role_networks(seed=1, lstm_size=8)
    inputs = inputs_of(SPEC, 2, [0, 2, 1])
    state = random_state(one, 3)
    assert not torch.equal(one(inputs, state).values, other(inputs, state).values)
    load_flat(other, flattened(one))
    assert torch.equal(one(inputs, state).logits, other(inputs, state).logits)
    assert torch.equal(one(inputs, state).values, other(inputs, state).values)
    names = [name for name, _ in one.named_parameters()]
    assert [name for name in names if "value_head" in name] == ["value_head.weight", "value_head.bias"]
    sizes = [parameter.numel() for _, parameter in one.roles[0].named_parameters()]
    head = sum(parameter.numel() for parameter in one.value_head.parameters())
    assert flattened(one).shape == (ROLES * (sum(sizes) - head) + head,)


def test_roles_start_differently_and_act_in_bfloat16() -> None:
    network = role_networks(with_mask(SPEC))
    first, second = (role.get_parameter("encoder.torso.0.weight") for role in network.roles[:2])
    assert not torch.equal(first, second)
    inputs = inputs_of(with_mask(SPEC), 1, [0, 1, 2])
    exact = network(inputs, ())
    network.cast_torso(torch.bfloat16)
    kinds = {parameter.dtype for name, parameter in network.named_parameters() if "encoder" in name}
    assert kinds == {torch.bfloat16}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = network(inputs, ())
    assert rounded.logits.dtype == torch.float32
    torch.testing.assert_close(rounded.values, exact.values, rtol=0.05, atol=0.05)


def test_roles_learn_opposite_things_from_one_batch() -> None:
    """Logits are to be +x for one role and -x for the other; a shared network can only answer 0."""
    torch.manual_seed(0)
    spec = spec_of(VECTOR, num_tasks=2)

    def error(network: nn.Module) -> Tensor:
        inputs = random_inputs(spec, 1, 128)
        signs = 1 - 2 * inputs.task_id.float()
        targets = signs * inputs.observation["observation"][..., 0]
        errors: Tensor = network(inputs, ()).logits[..., 0] - targets
        return errors.square().mean()

    errors = {}
    for separate in (False, True):
        config = NetworkConfig(separate_roles=separate, hidden_sizes=(32,))
        network = build_network(spec, config, seed=0)
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
        for _ in range(150):
            optimizer.zero_grad()
            torch.autograd.backward(error(network))
            optimizer.step()
        errors[separate] = error(network).item()
    assert errors[True] < 0.1
    assert errors[False] > 0.7
