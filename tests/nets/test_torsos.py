from typing import Any

import pytest
import torch
from network_cases import make_spec, random_inputs, spec_of, with_mask, zero_state
from pydantic import ValidationError
from torch import Tensor, nn

from machina.errors import UserError
from machina.nets.build import build_network
from machina.nets.config import NetworkConfig
from machina.nets.network import ActorCritic, NetworkInput
from machina.nets.reading import ImageShape, image_shape, read
from machina.nets.torsos import Encoder, ImageConvolution, JoinedTorso, UnitsTorso
from machina.specs import ArraySpec, EnvSpec

UNITS = ArraySpec(shape=(7, 3), dtype="float32")
UNITS_MASK = ArraySpec(shape=(7,), dtype="bool")
OWN = ArraySpec(shape=(4,), dtype="float32")
CHOICE = ArraySpec(shape=(4,), dtype="bool", choices=(4,), starts=(0,))


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
        ("auto", make_spec("float32", height=(), position=(3,))),
        ("auto", with_mask(make_spec(observation=(40, 50)))),
        ("units", spec_of({"units": UNITS})),
        ("auto", spec_of({"units": UNITS, "units_mask": UNITS_MASK, "own": OWN})),
        ("mlp", spec_of({"units": UNITS, "units_mask": UNITS_MASK, "own": OWN})),
        ("auto", make_spec(camera=(40, 50, 3))),
        ("auto", make_spec(camera=(40, 50, 3), speed=(2,))),
        ("deep", make_spec(camera=(9, 10, 3), left=(2, 16, 16, 4), height=())),
        ("auto", with_mask(make_spec("float32", observation=(4, 48, 48, 3)))),
    ],
)
def test_every_torso_answers_with_the_contracts_shapes(torso: str, spec: EnvSpec, lstm_size: int) -> None:
    network = build_network(spec, NetworkConfig.model_validate({"torso": torso, "lstm_size": lstm_size}), seed=0)
    output = network(random_inputs(spec, 3, 2), zero_state(network, 2))
    assert output.logits.shape == (3, 2, 5)
    assert output.values.shape == (3, 2, 2)
    assert [tuple(state.shape[1:]) for state in output.core_state] == list(network.core_state_shapes)
    assert network.core_state_shapes == (((16,), (16,)) if lstm_size else ())


def test_no_gradient_of_the_shallow_nets_relus_lies_in_memory_unlike_their_output() -> None:
    """PyTorch's backward pass of a ReLU takes twelve times as long there (CPU, version 2.13)."""
    encoder = Encoder(make_spec(observation=(4, 84, 84), stack=4), NetworkConfig(torso="shallow"))
    layouts: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def watch(*call: Any) -> None:
        output = call[2]
        output.register_hook(lambda gradient: layouts.append((gradient.stride(), output.stride())))

    for layer in encoder.modules():
        if isinstance(layer, nn.ReLU):
            layer.register_forward_hook(watch)
    encoder({"observation": torch.zeros(2, 3, 4, 84, 84, dtype=torch.uint8)}).square().sum().backward()
    assert len(layouts) == 4
    assert all(gradient == output for gradient, output in layouts)


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


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((84, 80), (1, 84, 80, "HW")),
        ((84, 80, 3), (3, 84, 80, "HWC")),
        ((3, 84, 80), (3, 84, 80, "CHW")),
        ((6, 7, 2), (2, 6, 7, "HWC")),
        ((13, 13, 5), (5, 13, 13, "HWC")),
        ((5, 13, 13), (5, 13, 13, "CHW")),
        ((8, 8, 111), (111, 8, 8, "HWC")),
        ((9, 9, 17), (17, 9, 9, "HWC")),
        ((10, 10, 10), (10, 10, 10, "HWC")),
        ((40, 40, 44), (44, 40, 40, "HWC")),
        ((44, 40, 40), (44, 40, 40, "CHW")),
        ((4, 84, 80, 3), (12, 84, 80, "SHWC")),
        ((4, 3, 84, 80), (12, 84, 80, "SCHW")),
        ((2, 8, 8, 20), (40, 8, 8, "SHWC")),
        ((8,), None),
        ((2, 3, 4, 5, 6), None),
    ],
)
def test_layouts_are_guessed(shape: tuple[int, ...], expected: ImageShape | None) -> None:
    assert image_shape(shape) == expected


def test_a_layout_that_is_given_is_not_guessed() -> None:
    assert image_shape((84, 80, 3), "CHW") == (84, 80, 3, "CHW")
    assert image_shape((3, 84, 80), "HWC") == (80, 3, 84, "HWC")
    assert image_shape((4, 3, 84, 80), "HWC") == (320, 3, 84, "SHWC")
    config = NetworkConfig(image_layout="CHW", torso="deep")
    assert images(make_spec(observation=(40, 40, 44)), config) == {"observation": (40, 40, 44, "CHW")}


def images(spec: EnvSpec, config: NetworkConfig | None = None) -> dict[str, ImageShape]:
    return read(spec, config or NetworkConfig()).images


def test_which_arrays_are_images() -> None:
    """Those that the kernels fit, whatever their dtype; the action mask never."""
    frames = make_spec(observation=(40, 50, 44), stack=40)
    assert images(frames) == {"observation": (40, 50, 44, "CHW")}
    with pytest.raises(UserError, match=r"image_layout=HWC: 'test' gives stacks of frames.*leave it out"):
        read(frames, NetworkConfig(image_layout="HWC"))
    assert images(with_mask(make_spec(observation=(84, 80, 3)))) == {"observation": (3, 84, 80, "HWC")}
    both = make_spec("float32", left=(84, 84, 3), right=(84, 84, 3), speed=(2,), small=(5, 5))
    assert images(both) == {"left": (3, 84, 84, "HWC"), "right": (3, 84, 84, "HWC")}
    assert images(make_spec(observation=(8,))) == {}
    deep = NetworkConfig(torso="deep")
    assert list(images(make_spec(grid=(7, 7, 3), matrix=(5, 5), map=(8, 9), speed=(2,)), deep)) == ["grid", "map"]
    assert list(images(make_spec(observation=(5, 5)), deep)) == ["observation"]


def test_an_image_in_either_layout_gives_the_same_answer() -> None:
    config = NetworkConfig(torso="shallow")
    spec_hwc, spec_chw = make_spec(observation=(40, 50, 3)), make_spec(observation=(3, 40, 50))
    inputs = random_inputs(spec_hwc, 2, 3)
    turned = inputs._replace(observation={"observation": inputs.observation["observation"].permute(0, 1, 4, 2, 3)})
    answer = build_network(spec_hwc, config, seed=4)(inputs, ())
    torch.testing.assert_close(build_network(spec_chw, config, seed=4)(turned, ()).logits, answer.logits)


def test_stacks_of_images_become_channels_frame_by_frame() -> None:
    """[S, H, W, C] and [S, C, H, W] as [S * C, H, W], which is read as it lies."""
    config = NetworkConfig()
    shapes = {"SHWC": (4, 40, 50, 3), "SCHW": (4, 3, 40, 50), "CHW": (12, 40, 50)}
    frames = torch.randint(0, 256, (2, 3, 4, 40, 50, 3), dtype=torch.uint8)
    turned = frames.permute(0, 1, 2, 5, 3, 4)
    seen = {"SHWC": frames, "SCHW": turned, "CHW": turned.reshape(2, 3, 12, 40, 50)}
    answers = {}
    for layout, shape in shapes.items():
        spec = make_spec(observation=shape)
        assert images(spec) == {"observation": (12, 40, 50, layout)}
        inputs = changed(random_inputs(spec, 2, 3), observation=seen[layout])
        answers[layout] = build_network(spec, config, seed=4)(inputs, ()).logits
    torch.testing.assert_close(answers["SHWC"], answers["CHW"])
    torch.testing.assert_close(answers["SCHW"], answers["CHW"])


def test_images_and_the_rest_are_joined() -> None:
    """The torso against a naive twin."""
    shapes = {"camera": (40, 50, 3), "speed": (2,), "a.b/c": (3, 36, 36)}
    spec = spec_of({key: ArraySpec(shape=shape, dtype="uint8") for key, shape in shapes.items()})
    encoder, inputs = Encoder(spec, NetworkConfig(hidden_sizes=(32, 16))), random_inputs(spec, 2, 3)
    torso = encoder.torso
    assert isinstance(torso, JoinedTorso)
    seen = {key: array.flatten(0, 1).float() for key, array in inputs.observation.items()}
    parts = [
        torso.images[0](seen["camera"].permute(0, 3, 1, 2)),
        torso.images[1](seen["a.b/c"]),
        torch.relu(torso.others[0](seen["speed"] / 255)),
    ]
    assert [part.shape[1] for part in parts] == [16, 16, 32]
    expected = torch.relu(torso.hidden[0](torch.cat(parts, dim=1)))
    torch.testing.assert_close(encoder(inputs.observation), expected)


def test_a_single_image_of_a_dictionary_is_read_as_if_it_stood_alone() -> None:
    alone, within = make_spec(observation=(40, 50, 3)), make_spec(camera=(40, 50, 3))
    inputs = random_inputs(alone, 2, 3)
    answer = build_network(alone, NetworkConfig(), seed=4)(inputs, ())
    renamed = inputs._replace(observation={"camera": inputs.observation["observation"]})
    assert torch.equal(build_network(within, NetworkConfig(), seed=4)(renamed, ()).logits, answer.logits)


@pytest.mark.parametrize(
    ("array", "options", "divisor"),
    [
        (ArraySpec(shape=(6,), dtype="uint8"), {}, 255),
        (ArraySpec(shape=(6,), dtype="uint8", high=1), {}, 1),
        (ArraySpec(shape=(6,), dtype="uint8", high=10), {}, 10),
        (ArraySpec(shape=(6,), dtype="uint8", high=10), {"observation_divisor": 5}, 5),
        (ArraySpec(shape=(6,), dtype="uint8"), {"observation_divisor": 1}, 1),
        (ArraySpec(shape=(6,), dtype="int8", low=0, high=10), {}, 1),
        (ArraySpec(shape=(6,), dtype="float32", low=0, high=10), {"observation_divisor": 5}, 1),
        (ArraySpec(shape=(6, 6), dtype="float32", low=-20, high=10), {}, 20),
        (ArraySpec(shape=(6, 6), dtype="float32", low=0, high=255), {"observation_filter": True}, 1),
        (ArraySpec(shape=(6, 6, 3), dtype="int64", low=0, high=255), {}, 255),
        (ArraySpec(shape=(6, 6, 3), dtype="uint16"), {}, 65_535),
        (ArraySpec(shape=(6, 6, 3), dtype="uint16", high=4095), {}, 4095),
        (ArraySpec(shape=(6, 6, 3), dtype="uint32"), {}, 1),
        (ArraySpec(shape=(6, 6, 3), dtype="float32", low=0, high=1e6), {}, 1),
        (ArraySpec(shape=(6, 6, 3), dtype="float32", low=0), {}, 1),
        (ArraySpec(shape=(6, 6, 3), dtype="int8"), {}, 1),
        (ArraySpec(shape=(6, 6, 3), dtype="bool"), {"observation_divisor": 5}, 1),
    ],
)
def test_scales_come_from_bounds(array: ArraySpec, options: dict[str, float], divisor: float) -> None:
    config = NetworkConfig.model_validate(options)
    assert read(spec_of({"observation": array}), config).scales == {"observation": 1 / divisor}
    units = spec_of({"units": ArraySpec(shape=(6, 6), dtype="float32", low=0, high=10), "own": array})
    assert read(units, config).scales == {"units": 1, "own": 1 / divisor}


@pytest.mark.parametrize("shape", [(40, 40, 3), (6, 6), (6,)])
@pytest.mark.parametrize("dtype", ["int8", "int64", "float32", "bool"])
def test_the_dtype_alone_changes_nothing(shape: tuple[int, ...], dtype: str) -> None:
    """Zeros and ones in the bounds 0 and 1."""
    high = None if dtype == "bool" else 1
    bytes_spec = spec_of({"observation": ArraySpec(shape=shape, dtype="uint8", high=1)})
    spec = spec_of({"observation": ArraySpec(shape=shape, dtype=dtype, low=None if high is None else 0, high=high)})
    inputs = random_inputs(bytes_spec, 2, 3)
    ones = torch.randint(0, 2, (2, 3, *shape))
    expected = build_network(bytes_spec, NetworkConfig(), seed=1)(changed(inputs, observation=ones.byte()), ())
    cast = changed(inputs, observation=ones.to(getattr(torch, dtype)))
    assert torch.equal(build_network(spec, NetworkConfig(), seed=1)(cast, ()).logits, expected.logits)


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        (make_spec(observation=(4, 84, 84), stack=4), "shallow: observation 4x84x84 (CHW, divided by 255)"),
        (make_spec("float32", observation=(4,)), "mlp of 4 inputs: observation 4"),
        (with_mask(make_spec("int8", observation=(6, 7, 2))), "mlp of 84 inputs: observation 6x7x2"),
        (
            make_spec("uint8", camera=(48, 48, 3), speed=(2,)),
            "shallow: camera 48x48x3 (HWC, divided by 255); joined with speed 2 (divided by 255)",
        ),
        (spec_of({"units": UNITS, "own": OWN}), "units: units 7x3, own 4"),
        (
            spec_of(
                {
                    "way": ArraySpec(shape=(4,), dtype="bool", choices=(4,), starts=(0,)),
                    "height": ArraySpec(shape=(), dtype="float32"),
                }
            ),
            "mlp of 5 inputs: way 4 (one-hot), height 1",
        ),
    ],
)
def test_the_user_sees_what_is_read(spec: EnvSpec, line: str) -> None:
    assert read(spec, NetworkConfig()).describe(spec) == line


@pytest.mark.parametrize(
    ("spec", "convolutions"),
    [
        (with_mask(make_spec("int8", observation=(6, 7, 2))), 0),
        (with_mask(make_spec("int8", observation=(6, 7, 2))), 2),
        (make_spec("float32", observation=(13, 13, 5)), 0),
        (make_spec("float32", observation=(13, 13, 5)), 2),
        (with_mask(make_spec(observation=(84, 84, 3))), 3),
    ],
)
def test_small_planes_are_flattened_unless_kernels_fit(spec: EnvSpec, convolutions: int) -> None:
    """connect_four, magent's battle, and a camera with an action mask."""
    config = NetworkConfig()
    if convolutions == 2:
        config = NetworkConfig(filters=(8, 16), kernels=(3, 3), strides=(1, 1), hidden_sizes=(32,))
    network = build_network(spec, config, seed=0)
    assert len([layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]) == convolutions
    assert network(random_inputs(spec, 2, 3), ()).logits.shape == (2, 3, 5)


def test_torsos_that_do_not_suit_the_observation_are_refused() -> None:
    def refuse(spec: EnvSpec, torso: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            build_network(spec, NetworkConfig.model_validate({"torso": torso}), seed=0)

    refuse(make_spec(observation=(20, 20)), "shallow", r"20x20 pixels.*--torso mlp")
    refuse(make_spec(observation=(20,)), "deep", "needs an image")
    refuse(make_spec(left=(20, 30), right=(9, 9), speed=(3,)), "shallow", r"20x30 pixels.*--torso mlp")
    refuse(make_spec(observation=(20,), privileged=(3,)), "auto", "privileged")
    refuse(make_spec("float32", observation=(6,)), "units", "needs an array 'units' of floats .*--torso mlp")
    refuse(make_spec("uint8", units=(6, 3)), "units", r"'units': 'uint8 \(6, 3\)'")
    wrong_mask = ArraySpec(shape=(6,), dtype="bool")
    refuse(spec_of({"units": UNITS, "units_mask": wrong_mask}), "auto", r"must be bool \(7,\), got bool \(6,\)")
    with pytest.raises(ValidationError, match="one number per convolution"):
        NetworkConfig(filters=(32, 64))


def units_network(**observation: ArraySpec) -> tuple[ActorCritic, NetworkInput]:
    spec = spec_of(observation)
    network = build_network(spec, NetworkConfig(), seed=0)
    assert isinstance(network, ActorCritic)
    assert isinstance(network.encoder.torso, UnitsTorso)
    return network, random_inputs(spec, 4, 5)


def changed(inputs: NetworkInput, **arrays: Tensor) -> NetworkInput:
    return inputs._replace(observation={**inputs.observation, **arrays})


def test_the_order_of_units_means_nothing() -> None:
    network, inputs = units_network(units=UNITS, units_mask=UNITS_MASK, own=OWN)
    order = torch.randperm(7)
    units, present = inputs.observation["units"][:, :, order], inputs.observation["units_mask"][:, :, order]
    plain, turned = network(inputs, ()), network(changed(inputs, units=units, units_mask=present), ())
    torch.testing.assert_close(turned.logits, plain.logits)
    torch.testing.assert_close(turned.values, plain.values)
    assert not torch.allclose(network(changed(inputs, units=units), ()).logits, plain.logits)


def test_absent_units_say_nothing_and_present_ones_do() -> None:
    network, inputs = units_network(units=UNITS, units_mask=UNITS_MASK)
    present = inputs.observation["units_mask"]
    units = inputs.observation["units"]
    plain = network(inputs, ()).logits
    noise = torch.randn_like(units) * 100
    absent = changed(inputs, units=torch.where(present[..., None], units, noise))
    assert torch.equal(network(absent, ()).logits, plain)
    here = changed(inputs, units=torch.where(present[..., None], noise, units))
    assert not torch.allclose(network(here, ()).logits, plain)
    nobody = changed(inputs, units_mask=torch.zeros_like(present))
    assert torch.isfinite(network(nobody, ()).logits).all()
    assert torch.equal(network(nobody, ()).logits[0, 0], network(nobody, ()).logits[1, 1])


def test_the_maximum_is_that_of_a_loop_over_present_units() -> None:
    """The torso against a naive twin, unit by unit."""
    network, inputs = units_network(units=UNITS, units_mask=UNITS_MASK, own=OWN)
    torso = network.encoder.torso
    assert isinstance(torso, UnitsTorso)
    arrays = {key: array.flatten(0, 1) for key, array in inputs.observation.items()}
    got = network.encoder(inputs.observation)
    for n in range(20):
        rows = [arrays["units"][n, u] for u in range(7) if arrays["units_mask"][n, u]]
        pooled = torch.stack([torso.embedding(row) for row in rows]).amax(dim=0) if rows else torch.zeros(128)
        assert torso.others is not None
        expected = torso.hidden(torch.cat([pooled, torso.others(arrays["own"][n])]))
        torch.testing.assert_close(got[n], expected)


def test_a_units_network_learns_what_a_sum_of_features_can_not_tell() -> None:
    """Whether any present unit is near: solved to a tenth of the error of the best constant."""
    torch.manual_seed(0)
    network, _ = units_network(units=UNITS, units_mask=UNITS_MASK)
    spec = spec_of({"units": UNITS, "units_mask": UNITS_MASK})
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)

    def error() -> Tensor:
        inputs = random_inputs(spec, 1, 256)
        near = inputs.observation["units"][..., 0].abs() < 0.25
        target = (near & inputs.observation["units_mask"]).any(dim=-1).float()
        return (network(inputs, ()).values[..., 0] - target).square().mean()

    for _ in range(300):
        optimizer.zero_grad()
        torch.autograd.backward(error())
        optimizer.step()
    with torch.no_grad():
        assert error().item() < 0.025


def test_bfloat16_torsos_read_units_and_images_alike() -> None:
    for spec in (spec_of({"units": UNITS, "units_mask": UNITS_MASK, "own": OWN}), make_spec(observation=(40, 50))):
        encoder, inputs = Encoder(spec, NetworkConfig()), random_inputs(spec, 2, 3)
        exact = encoder(inputs.observation)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = encoder.to(torch.bfloat16)(inputs.observation)
        assert rounded.dtype == torch.bfloat16
        torch.testing.assert_close(rounded.float(), exact, rtol=0.1, atol=0.1)
