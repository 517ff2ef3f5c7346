import pytest
import torch
from network_cases import (
    ACTIONS,
    CONTINUOUS,
    DISCRETE,
    MULTI_DISCRETE,
    assert_unroll_equals_single_steps,
    make_spec,
    random_inputs,
    spec_of,
    with_mask,
    zero_state,
)
from pydantic import ValidationError
from torch import Tensor

from machina.errors import UserError
from machina.nets.build import build_network
from machina.nets.config import NetworkConfig
from machina.nets.distributions import FORBIDDEN, distribution_of
from machina.nets.network import ActorCritic, NetworkInput, NetworkOutput
from machina.specs import ArraySpec
from machina.types import ACTION_MASK, NO_ACTION

VECTOR = {"observation": ArraySpec(shape=(6,), dtype="float32")}


@pytest.mark.parametrize("separate_roles", [False, True])
@pytest.mark.parametrize("lstm_size", [0, 12])
@pytest.mark.parametrize("kind", sorted(ACTIONS))
def test_every_kind_of_action_gets_its_parameters(kind: str, lstm_size: int, separate_roles: bool) -> None:
    spec = spec_of(VECTOR, num_tasks=3, action=ACTIONS[kind])
    config = NetworkConfig(lstm_size=lstm_size, separate_roles=separate_roles, separate_value=not lstm_size)
    network = build_network(spec, config, seed=0)
    output = network(random_inputs(spec, 4, 5, resets=0.3), zero_state(network, 5))
    assert output.logits.shape == (4, 5, {"discrete": 5, "multi_discrete": 3 + 2 + 4, "continuous": 2 * 2}[kind])
    assert output.values.shape == (4, 5, 3)
    assert [tuple(state.shape) for state in output.core_state] == [(5, 12)] * (2 if lstm_size else 0)
    assert output.logits.dtype == output.values.dtype == torch.float32


@pytest.mark.parametrize("action", ACTIONS.values(), ids=list(ACTIONS))
def test_an_unroll_with_resets_equals_acting_step_by_step(action: object) -> None:
    torch.manual_seed(0)
    spec = spec_of(VECTOR).model_copy(update={"action": action})
    network = build_network(spec, NetworkConfig(lstm_size=12, hidden_sizes=(8,)), seed=1)
    inputs = random_inputs(spec, 11, 5, resets=0.2)
    assert inputs.first[1:].any()
    assert_unroll_equals_single_steps(network, inputs)


def test_the_lstm_is_fed_with_previous_action_and_clipped_reward() -> None:
    spec = spec_of(VECTOR)
    network = build_network(spec, NetworkConfig(lstm_size=12), seed=1)
    inputs = random_inputs(spec, 1, 1)._replace(reward=torch.full((1, 1), 1.0), previous_action=torch.tensor([[2]]))

    def logits(changed: NetworkInput) -> Tensor:
        output: NetworkOutput = network(changed, zero_state(network, 1))
        return output.logits

    plain = logits(inputs)
    assert torch.equal(plain, logits(inputs._replace(reward=torch.full((1, 1), 400.0))))
    assert not torch.equal(plain, logits(inputs._replace(reward=torch.full((1, 1), 0.5))))
    assert not torch.equal(plain, logits(inputs._replace(previous_action=torch.tensor([[3]]))))
    assert not torch.equal(plain, logits(inputs._replace(previous_action=torch.tensor([[NO_ACTION]]))))


def test_an_lstm_that_does_not_read_the_last_step_is_fed_features_only() -> None:
    spec = spec_of(VECTOR)
    options = NetworkConfig(lstm_size=4, hidden_sizes=(8,), lstm_reads_last_step=False)
    network = build_network(spec, options, seed=1)
    assert isinstance(network, ActorCritic)
    assert network.core is not None
    assert network.core.lstm.input_size == 8
    inputs = random_inputs(spec, 3, 2)
    changed = inputs._replace(reward=inputs.reward + 1, previous_action=(inputs.previous_action + 1) % 5)
    first, second = (network(each, zero_state(network, 2)).logits for each in (inputs, changed))
    assert torch.equal(first, second)
    with pytest.raises(ValidationError, match="lstm_reads_last_step=False: there is no LSTM"):
        NetworkConfig(lstm_reads_last_step=False)


def seen_by_the_lstm(network: ActorCritic, inputs: NetworkInput, features: int) -> Tensor:
    """``[T, B, numbers]``: what follows the features."""
    assert network.core is not None
    seen: list[Tensor] = []
    network.core.lstm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network(inputs, zero_state(network, inputs.reward.shape[1]))
    return torch.cat(seen)[..., features:]


def test_previous_actions_of_several_choices_are_one_hot_each() -> None:
    spec = spec_of(VECTOR, action=MULTI_DISCRETE)
    network = build_network(spec, NetworkConfig(lstm_size=4, hidden_sizes=(8,)), seed=1)
    inputs = random_inputs(spec, 2, 1)._replace(
        previous_action=torch.tensor([[[2, 0, 3]], [[NO_ACTION] * 3]]), reward=torch.tensor([[-4.0], [0.25]])
    )
    assert isinstance(network, ActorCritic)
    assert seen_by_the_lstm(network, inputs, features=8).tolist() == [
        [[0, 0, 1, 1, 0, 0, 0, 0, 1, -1]],
        [[0, 0, 0, 0, 0, 0, 0, 0, 0, 0.25]],
    ]


def test_previous_continuous_actions_are_fed_as_clipped_numbers() -> None:
    spec = spec_of(VECTOR, action=CONTINUOUS)
    network = build_network(spec, NetworkConfig(lstm_size=4, hidden_sizes=(8,)), seed=1)
    inputs = random_inputs(spec, 1, 1)._replace(
        previous_action=torch.tensor([[[0.25, -3.0]]]), reward=torch.tensor([[0.5]])
    )
    assert isinstance(network, ActorCritic)
    assert seen_by_the_lstm(network, inputs, features=8).tolist() == [[[0.25, -1, 0.5]]]


def test_deviations_do_not_depend_on_the_observation_and_are_learned() -> None:
    spec = spec_of(VECTOR, action=CONTINUOUS)
    network = build_network(spec, NetworkConfig(initial_log_deviation=-0.5), seed=0)
    inputs = random_inputs(spec, 3, 2)
    output = network(inputs, ())
    means, log_deviations = output.logits.chunk(2, dim=-1)
    assert torch.equal(log_deviations, torch.full((3, 2, 2), -0.5))
    assert means.std() > 0
    distribution = distribution_of(CONTINUOUS)
    torch.autograd.backward(distribution.log_probs(output.logits, means.detach() + 0.1).sum())
    parameter = network.get_parameter("log_deviation")
    assert parameter.grad is not None
    # d log p / d log sigma = (x - mean)^2 / sigma^2 - 1, summed over 6 entries
    expected = 6 * (0.1**2 * torch.e - 1)
    torch.testing.assert_close(parameter.grad, torch.full((2,), expected), rtol=1e-4, atol=0)


def test_deviations_start_where_asked_and_only_continuous_policies_have_them() -> None:
    default = build_network(spec_of(VECTOR, action=CONTINUOUS), NetworkConfig(), seed=0)
    assert default.get_parameter("log_deviation").tolist() == [0.0, 0.0]
    discrete_network = build_network(spec_of(VECTOR), NetworkConfig(), seed=0)
    assert "log_deviation" not in dict(discrete_network.named_parameters())


def test_a_separate_value_shares_nothing_with_the_policy() -> None:
    spec = spec_of(VECTOR)
    network = build_network(spec, NetworkConfig(separate_value=True, hidden_sizes=(7,)), seed=0)
    inputs = random_inputs(spec, 2, 3)

    def touched(loss: Tensor) -> set[str]:
        network.zero_grad()
        torch.autograd.backward(loss)
        return {name.partition(".")[0] for name, each in network.named_parameters() if each.grad is not None}

    assert touched(network(inputs, ()).values.sum()) == {"value_encoder", "value_head"}
    assert touched(network(inputs, ()).logits.sum()) == {"encoder", "policy_head"}
    network.cast_torso(torch.bfloat16)
    rounded = {name for name, each in network.named_parameters() if each.dtype == torch.bfloat16}
    assert {name.partition(".")[0] for name in rounded} == {"encoder", "value_encoder"}
    with pytest.raises(ValidationError, match="separate_value needs lstm_size=0, got 8"):
        NetworkConfig(separate_value=True, lstm_size=8)


@pytest.mark.parametrize("separate_roles", [False, True])
@pytest.mark.parametrize("lstm_size", [0, 8])
@pytest.mark.parametrize("action", [DISCRETE, MULTI_DISCRETE], ids=["discrete", "multi_discrete"])
def test_masks_reach_the_answer_and_nothing_else(action: object, lstm_size: int, separate_roles: bool) -> None:
    spec = spec_of(VECTOR).model_copy(update={"action": action})
    config = NetworkConfig(lstm_size=lstm_size, separate_roles=separate_roles)
    masked = build_network(with_mask(spec), config, seed=3)
    inputs = random_inputs(with_mask(spec), 4, 6)
    plain = build_network(spec, config, seed=3)(
        inputs._replace(observation={"observation": inputs.observation["observation"]}), zero_state(masked, 6)
    )
    answer = masked(inputs, zero_state(masked, 6))
    allowed = inputs.observation[ACTION_MASK]
    assert 0 < allowed.sum() < allowed.numel()
    assert torch.equal(answer.logits[allowed], plain.logits[allowed])
    assert (answer.logits[~allowed] == FORBIDDEN).all()
    assert torch.equal(answer.values, plain.values)


def test_a_mask_that_does_not_fit_the_actions_is_refused() -> None:
    def refuse(action: object, mask: ArraySpec, message: str) -> None:
        spec = spec_of({**VECTOR, ACTION_MASK: mask}).model_copy(update={"action": action})
        with pytest.raises(UserError, match=message):
            build_network(spec, NetworkConfig(), seed=0)

    fits = ArraySpec(shape=(5,), dtype="bool")
    build_network(spec_of({**VECTOR, ACTION_MASK: fits}), NetworkConfig(), seed=0)
    refuse(DISCRETE, ArraySpec(shape=(5,), dtype="int8"), r"must be bool \(5,\), one for each choice, got int8 \(5,\)")
    refuse(DISCRETE, ArraySpec(shape=(4,), dtype="bool"), r"got bool \(4,\)")
    refuse(MULTI_DISCRETE, fits, r"must be bool \(9,\)")
    refuse(CONTINUOUS, fits, "needs discrete actions")


def test_construction_is_seeded_and_leaves_the_global_stream_alone() -> None:
    spec = make_spec("float32", observation=(6,))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (build_network(spec, NetworkConfig(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.value_head.weight, same.value_head.weight)
    assert not torch.equal(one.value_head.weight, other.value_head.weight)


def test_a_continuous_policy_learns_a_regression() -> None:
    """Maximum likelihood of y = W x + noise: the means follow x, the deviation becomes that of the noise."""
    torch.manual_seed(0)
    spec = spec_of(VECTOR, num_tasks=1, action=CONTINUOUS)
    network = build_network(spec, NetworkConfig(hidden_sizes=(32,)), seed=0)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    weight, noise = torch.randn(6, 2), 0.3
    distribution = distribution_of(CONTINUOUS)

    def surprise() -> Tensor:
        inputs = random_inputs(spec, 4, 64)
        x = inputs.observation["observation"] * 0.3
        inputs = inputs._replace(observation={"observation": x})
        targets = x @ weight + noise * torch.randn(4, 64, 2)
        return -distribution.log_probs(network(inputs, ()).logits, targets).mean()

    before = surprise().item()
    for _ in range(300):
        optimizer.zero_grad()
        loss = surprise()
        torch.autograd.backward(loss)
        optimizer.step()
    best = 2 * (torch.log(torch.tensor(noise)).item() + 0.5 * torch.log(torch.tensor(2 * torch.pi * torch.e)).item())
    assert before > best + 1
    assert surprise().item() < best + 0.2
    deviation = network.get_parameter("log_deviation").exp()
    torch.testing.assert_close(deviation, torch.full((2,), noise), rtol=0.15, atol=0)


def test_how_a_new_network_starts() -> None:
    """The policy nearly uniform, values at unit gain, signals kept through ReLU, and an LSTM that remembers."""
    spec = spec_of(VECTOR, num_tasks=3)
    network = build_network(spec, NetworkConfig(lstm_size=16, hidden_sizes=(6,)), seed=3)
    assert isinstance(network, ActorCritic)
    assert network.core is not None
    named = dict(network.named_parameters())
    gains = {"policy_head.weight": 0.01, "value_head.weight": 1.0, "encoder.torso.0.weight": 2**0.5}
    for name, gain in gains.items():
        weight = named[name].detach()
        torch.testing.assert_close(weight @ weight.T, gain**2 * torch.eye(len(weight)), atol=1e-6, rtol=1e-5)
        assert not named[name.replace("weight", "bias")].any()
    lstm = {name.rpartition(".")[2]: parameter.detach() for name, parameter in network.core.lstm.named_parameters()}
    bias = lstm["bias_ih_l0"].reshape(4, 16)  # of the gates input, forget, cell, output
    small = 1 / 16**0.5  # PyTorch's own start
    assert (bias[1] >= 1 - small).all()
    assert (bias[[0, 2, 3]].abs() <= small).all()
    assert (lstm["bias_hh_l0"].abs() <= small).all()


def test_the_deviation_and_the_separate_value_start_as_configured() -> None:
    spec = spec_of(VECTOR, action=CONTINUOUS)
    config = NetworkConfig(initial_log_deviation=-0.7, separate_value=True, hidden_sizes=(6,))
    network = build_network(spec, config, seed=3)
    assert isinstance(network, ActorCritic)
    assert network.log_deviation is not None
    assert network.log_deviation.tolist() == pytest.approx([-0.7] * len(CONTINUOUS.low))
    assert network.value_encoder is not None
    weight = dict(network.value_encoder.named_parameters())["torso.0.weight"].detach()
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(6), atol=1e-6, rtol=1e-5)
