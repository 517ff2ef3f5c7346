from collections.abc import Iterator

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from machina.errors import UserError
from machina.nets.config import NetworkConfig
from machina.nets.network import CoreTensors, NetworkInput, NetworkOutput, PolicyNetwork
from machina.nets.register import NETWORKS, NetworkBuilder, build_network, register_network
from machina.nets.torsos import ImageConvolution, image_shape
from machina.specs import ArraySpec, EnvSpec
from machina.types import NO_ACTION


def make_spec(dtype: str = "uint8", stack: int = 1, num_tasks: int = 2, **shapes: tuple[int, ...]) -> EnvSpec:
    return EnvSpec(
        name="test",
        tasks=tuple(f"task{i}" for i in range(num_tasks)),
        observation={key: ArraySpec(shape=shape, dtype=dtype) for key, shape in shapes.items()},
        num_actions=5,
        frame_stack=stack,
    )


def random_inputs(spec: EnvSpec, T: int, B: int, resets: float = 0.0) -> NetworkInput:  # noqa: N803
    first = torch.rand(T, B) < resets
    return NetworkInput(
        observation={
            key: torch.randint(0, 255, (T, B, *array.shape)).to(getattr(torch, array.dtype))
            for key, array in spec.observation.items()
        },
        reward=torch.randn(T, B) * 3,
        previous_action=torch.randint(0, spec.num_actions, (T, B)).masked_fill(first, NO_ACTION),
        first=first,
    )


def zero_state(network: PolicyNetwork, slots: int) -> CoreTensors:
    return tuple(torch.zeros(slots, *shape) for shape in network.core_state_shapes)


@pytest.mark.parametrize("lstm_size", [0, 16])
@pytest.mark.parametrize(
    ("torso", "spec"),
    [
        ("shallow", make_spec(observation=(4, 84, 84), stack=4)),
        ("deep", make_spec(observation=(4, 21, 30), stack=4)),
        ("shallow", make_spec(observation=(40, 50, 3))),
        ("shallow", make_spec(observation=(40, 50))),
        ("auto", make_spec(observation=(40, 50))),
        ("auto", make_spec("float32", observation=(6,))),
        ("auto", make_spec("float32", position=(3,), velocity=(2, 2))),
    ],
)
def test_every_torso_answers_with_the_contracts_shapes(torso: str, spec: EnvSpec, lstm_size: int) -> None:
    network = build_network(spec, NetworkConfig.model_validate({"torso": torso, "lstm_size": lstm_size}), seed=0)
    output = network(random_inputs(spec, 3, 2), zero_state(network, 2))
    assert output.logits.shape == (3, 2, 5)
    assert output.values.shape == (3, 2, 2)
    assert [tuple(state.shape[1:]) for state in output.core_state] == list(network.core_state_shapes)
    assert network.core_state_shapes == (((16,), (16,)) if lstm_size else ())


def test_the_papers_sizes() -> None:
    """DQN's 32-64-64-512 (3,136 features before the hidden layer); IMPALA's 15 convolutions and 11 x 11 x 32."""
    spec = make_spec(observation=(4, 84, 84), stack=4)
    shallow = build_network(spec, NetworkConfig(torso="shallow"), seed=0)
    linear = [layer for layer in shallow.modules() if isinstance(layer, nn.Linear)]
    assert (linear[0].in_features, linear[0].out_features) == (3136, 512)
    deep = build_network(spec, NetworkConfig(torso="deep"), seed=0)
    linear = [layer for layer in deep.modules() if isinstance(layer, nn.Linear)]
    assert (linear[0].in_features, linear[0].out_features) == (11 * 11 * 32, 256)
    assert len([layer for layer in deep.modules() if isinstance(layer, nn.Conv2d)]) == 15


@pytest.mark.parametrize("size", [(84, 84), (21, 42), (11, 7)])
def test_the_deep_nets_pools_are_tensorflows_same(size: tuple[int, int]) -> None:
    """SAME pads (ceil(n / 2) - 1) * 2 + 3 - n cells in all, the odd one at the far end."""
    spec = make_spec("float32", observation=(1, *size))
    network = build_network(spec, NetworkConfig(torso="deep"), seed=0)
    pool = next(layer for layer in network.modules() if isinstance(layer, nn.MaxPool2d))
    image = torch.randn(1, 1, *size)
    pads = [max((-(-n // 2) - 1) * 2 + 3 - n, 0) for n in size]
    padded = nn.functional.pad(
        image, (pads[1] // 2, pads[1] - pads[1] // 2, pads[0] // 2, pads[0] - pads[0] // 2), value=-torch.inf
    )
    assert torch.equal(pool(image), nn.functional.max_pool2d(padded, 3, 2))


def test_bytes_are_scaled_to_one_by_way_of_a_kernel_without_mean() -> None:
    layer = ImageConvolution(4, 8, kernel=3, stride=2, padding=0, scale=1 / 255)
    images = torch.randint(0, 256, (2, 4, 9, 9)).float()
    centred = layer.weight - layer.weight.mean(dim=(1, 2, 3), keepdim=True)
    expected = nn.functional.conv2d(images / 255, centred, layer.bias, stride=2)
    torch.testing.assert_close(layer(images), expected, rtol=1e-5, atol=1e-6)


def test_a_uniform_background_says_nothing_and_teaches_nothing() -> None:
    layer = ImageConvolution(4, 8, kernel=3, stride=2, padding=0, scale=1 / 255)
    assert layer.bias is not None
    answer = layer(torch.full((1, 4, 9, 9), 87.0))
    torch.testing.assert_close(answer, layer.bias.view(1, 8, 1, 1).expand_as(answer), rtol=0, atol=1e-5)
    torch.autograd.backward(answer.sum())
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().max() < 1e-4 * 87 / 255 * answer[0, 0].numel()


@pytest.mark.parametrize("torso", ["shallow", "deep", "mlp"])
def test_every_torso_reads_bytes_as_numbers_up_to_one(torso: str) -> None:
    config = NetworkConfig.model_validate({"torso": torso})
    spec = make_spec(observation=(4, 40, 36), stack=4)
    inputs = random_inputs(spec, 2, 3)
    scaled = inputs._replace(observation={"observation": inputs.observation["observation"] / 255})
    as_bytes = build_network(spec, config, seed=0)(inputs, ())
    as_floats = build_network(make_spec("float32", observation=(4, 40, 36), stack=4), config, seed=0)(scaled, ())
    torch.testing.assert_close(as_bytes.logits, as_floats.logits, rtol=1e-4, atol=1e-5)


def test_image_layouts() -> None:
    assert image_shape(make_spec(observation=(4, 84, 80), stack=4)) == (4, 84, 80, "CHW")
    assert image_shape(make_spec(observation=(84, 80, 3))) == (3, 84, 80, "HWC")
    assert image_shape(make_spec(observation=(84, 80))) == (1, 84, 80, "HW")
    assert image_shape(make_spec(observation=(8,))) is None
    assert image_shape(make_spec(left=(84, 84, 3), right=(84, 84, 3))) is None


def test_an_image_in_either_layout_gives_the_same_answer() -> None:
    config = NetworkConfig(torso="shallow")
    spec_hwc, spec_chw = make_spec(observation=(40, 50, 3)), make_spec(observation=(3, 40, 50))
    inputs = random_inputs(spec_hwc, 2, 3)
    turned = inputs._replace(observation={"observation": inputs.observation["observation"].permute(0, 1, 4, 2, 3)})
    answer = build_network(spec_hwc, config, seed=4)(inputs, ())
    torch.testing.assert_close(build_network(spec_chw, config, seed=4)(turned, ()).logits, answer.logits)


def test_an_unroll_with_resets_equals_acting_step_by_step() -> None:
    """The actor zeroes the core state at episode starts; the learner must do so inside the unroll."""
    torch.manual_seed(0)
    spec = make_spec("float32", observation=(6,))
    network = build_network(spec, NetworkConfig(lstm_size=12, hidden_sizes=(8,)), seed=1)
    T, B = 11, 5  # noqa: N806
    inputs = random_inputs(spec, T, B, resets=0.2)
    assert inputs.first[1:].any()
    start = tuple(torch.randn(B, 12) for _ in range(2))
    with torch.no_grad():
        whole = network(inputs, start)
        state = start
        for t in range(T):
            state = tuple(part * (~inputs.first[t])[:, None] for part in state)
            observation = {key: array[t : t + 1] for key, array in inputs.observation.items()}
            no_resets = torch.zeros(1, B, dtype=torch.bool)
            entry = NetworkInput(observation, inputs.reward[t][None], inputs.previous_action[t][None], no_resets)
            step = network(entry, state)
            state = step.core_state
            torch.testing.assert_close(step.logits[0], whole.logits[t])
            torch.testing.assert_close(step.values[0], whole.values[t])
    for got, expected in zip(whole.core_state, state, strict=True):
        torch.testing.assert_close(got, expected)


def test_the_lstm_is_fed_with_previous_action_and_clipped_reward() -> None:
    spec = make_spec("float32", observation=(6,))
    network = build_network(spec, NetworkConfig(lstm_size=12), seed=1)
    inputs = random_inputs(spec, 1, 1)._replace(reward=torch.full((1, 1), 1.0), previous_action=torch.tensor([[2]]))

    def logits(changed: NetworkInput) -> torch.Tensor:
        output: NetworkOutput = network(changed, zero_state(network, 1))
        return output.logits

    plain = logits(inputs)
    assert torch.equal(plain, logits(inputs._replace(reward=torch.full((1, 1), 400.0))))
    assert not torch.equal(plain, logits(inputs._replace(reward=torch.full((1, 1), 0.5))))
    assert not torch.equal(plain, logits(inputs._replace(previous_action=torch.tensor([[3]]))))
    assert not torch.equal(plain, logits(inputs._replace(previous_action=torch.tensor([[NO_ACTION]]))))


def test_construction_is_seeded_and_leaves_the_global_stream_alone() -> None:
    spec = make_spec("float32", observation=(6,))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (build_network(spec, NetworkConfig(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.value_head.weight, same.value_head.weight)
    assert not torch.equal(one.value_head.weight, other.value_head.weight)


def test_torsos_that_do_not_suit_the_observation_are_refused() -> None:
    with pytest.raises(UserError, match=r"20x20 pixels.*--torso mlp"):
        build_network(make_spec(observation=(20, 20)), NetworkConfig(torso="shallow"), seed=0)
    with pytest.raises(UserError, match="needs one image"):
        build_network(make_spec(observation=(20,)), NetworkConfig(torso="deep"), seed=0)
    with pytest.raises(UserError, match="privileged"):
        build_network(make_spec(observation=(20,), privileged=(3,)), NetworkConfig(), seed=0)
    with pytest.raises(ValidationError, match="one number per convolution"):
        NetworkConfig(filters=(32, 64))


class OwnNetwork(PolicyNetwork):
    """A user's network with a counter as its core state."""

    def __init__(self, spec: EnvSpec, value_outputs: int) -> None:
        super().__init__()
        self.core_state_shapes = ((1,),)
        self.body = nn.Linear(spec.observation["observation"].shape[0], 4)
        self.policy = nn.Linear(4, spec.num_actions)
        self.value_head = nn.Linear(4, value_outputs)

    def forward(self, inputs: NetworkInput, core_state: CoreTensors) -> NetworkOutput:
        features = self.body(inputs.observation["observation"].float()).relu()
        return NetworkOutput(self.policy(features), self.value_head(features), (core_state[0] + 1,))


@pytest.fixture
def registry() -> Iterator[dict[str, NetworkBuilder]]:
    before = dict(NETWORKS)
    yield NETWORKS
    NETWORKS.clear()
    NETWORKS.update(before)


def test_a_users_network_by_name(registry: dict[str, NetworkBuilder]) -> None:
    register_network("counter", lambda spec, _: OwnNetwork(spec, spec.num_tasks))
    assert "counter" in registry
    spec = make_spec("float32", observation=(6,))
    network = build_network(spec, NetworkConfig(network_name="counter"), seed=0)
    assert isinstance(network, OwnNetwork)
    with pytest.raises(UserError, match="did you mean 'counter'"):
        build_network(spec, NetworkConfig(network_name="countre"), seed=0)
    with pytest.raises(UserError, match="registered already"):
        register_network("counter", lambda spec, _: OwnNetwork(spec, 1))


@pytest.mark.usefixtures("registry")
def test_a_users_network_that_breaks_the_contract_is_refused() -> None:
    spec = make_spec("float32", observation=(6,))

    class WrongLogits(OwnNetwork):
        def forward(self, inputs: NetworkInput, core_state: CoreTensors) -> NetworkOutput:
            output = super().forward(inputs, core_state)
            return output._replace(logits=output.logits[..., :-1])

    class WithBuffer(OwnNetwork):
        def __init__(self, spec: EnvSpec, value_outputs: int) -> None:
            super().__init__(spec, value_outputs)
            self.register_buffer("running_mean", torch.zeros(3))

    register_network("one head", lambda spec, _: OwnNetwork(spec, 1))
    register_network("wrong logits", lambda spec, _: WrongLogits(spec, spec.num_tasks))
    register_network("with buffer", lambda spec, _: WithBuffer(spec, spec.num_tasks))
    for name, complaint in [
        ("one head", "2 outputs"),
        ("wrong logits", r"\(1, 2, 5\)"),
        ("with buffer", "running_mean"),
    ]:
        with pytest.raises(UserError, match=complaint):
            build_network(spec, NetworkConfig(network_name=name), seed=0)
