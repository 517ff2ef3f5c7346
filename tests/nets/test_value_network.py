"""Noisy layers, dueling streams and distributions of the network of the value-based algorithms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from machina.nets.build import build_value_network
from machina.nets.config import ValueNetworkConfig
from machina.nets.network import NetworkInput
from machina.nets.noisy import INDEPENDENT_SIGMA, NoisyLinear
from machina.nets.q_network import QOutput
from machina.nets.sizes import network_size
from machina.nets.value_network import ValueNetwork
from machina.specs import ArraySpec, EnvSpec, discrete

T, B, ACTIONS = 3, 4, 5
SPEC = EnvSpec(
    name="vector",
    tasks=("left", "right"),
    observation={"observation": ArraySpec(shape=(6,), dtype="float32")},
    action=discrete(ACTIONS),
)


def network_of(**options: Any) -> ValueNetwork:
    return build_value_network(SPEC, ValueNetworkConfig.model_validate({"hidden_sizes": [16, 8], **options}), seed=1)


def inputs(seed: int = 0) -> NetworkInput:
    generator = torch.Generator().manual_seed(seed)
    return NetworkInput(
        {"observation": torch.randn((T, B, 6), generator=generator)},
        torch.randn((T, B), generator=generator),
        torch.zeros((T, B), dtype=torch.int64),
        torch.zeros((T, B), dtype=torch.bool),
        (torch.arange(B) % 2).expand(T, B),
    )


def output_of(network: ValueNetwork, seed: int = 0) -> QOutput:
    core = tuple(torch.zeros(B, *shape) for shape in network.core_state_shapes)
    with torch.no_grad():
        return network(inputs(seed), core)


@pytest.mark.parametrize("kind", ["factorised", "independent"])
def test_noise_has_mean_0_and_the_deviation_that_it_starts_with(kind: Any) -> None:
    layer = NoisyLinear(100, 50, kind, sigma0=0.5)
    generator = torch.Generator().manual_seed(0)
    features = torch.ones(100) / 10
    with torch.no_grad():
        quiet: Tensor = layer(features)
        draws = []
        for _ in range(2000):
            layer.redraw(generator)
            draws.append(layer(features) - quiet)
    deviations = torch.stack(draws)
    assert deviations.mean().abs() < 0.01
    # Weights: sigma^2 times |x|^2 = 1; bias: sigma^2. Of factorised noise E[f(e)^2] = E|e| = 0.798 for each factor.
    sigma = 0.05 if kind == "factorised" else INDEPENDENT_SIGMA
    factor = 0.798**2 + 0.798 if kind == "factorised" else 2.0
    assert deviations.var().item() == pytest.approx(sigma**2 * factor, rel=0.08)


def test_factorised_noise_is_a_product_and_independent_noise_is_not() -> None:
    for kind, rank in (("factorised", 1), ("independent", 8)):
        layer = NoisyLinear(12, 8, kind, sigma0=0.5)  # type: ignore[arg-type]
        layer.redraw(torch.Generator().manual_seed(3))
        assert layer._noise is not None
        assert torch.linalg.matrix_rank(layer._noise[0]) == rank


def test_noise_stays_until_it_is_redrawn_and_goes_when_it_is_taken() -> None:
    network = network_of(noise="factorised", dueling=True)
    generator = torch.Generator().manual_seed(5)
    quiet = output_of(network).q_values
    network.redraw(generator)
    noisy = output_of(network).q_values
    assert not torch.equal(noisy, quiet)
    assert torch.equal(output_of(network).q_values, noisy)
    network.redraw(generator)
    assert not torch.equal(output_of(network).q_values, noisy)
    network.quiet()
    assert torch.equal(output_of(network).q_values, quiet)
    assert not dict(network.named_buffers())


def test_which_layers_are_noisy() -> None:
    def noisy(**options: Any) -> list[str]:
        network = network_of(**options)
        return [name for name, layer in network.named_modules() if isinstance(layer, NoisyLinear)]

    assert noisy(noise="none", dueling=True) == []
    assert noisy(noise="independent") == ["q_head.0"]
    assert noisy(noise="factorised", dueling=True) == ["q_head.0", "q_head.2", "value_stream.0", "value_stream.2"]
    assert noisy(noise="factorised", dueling=True, noisy_layers="value") == ["value_stream.0", "value_stream.2"]


@pytest.mark.parametrize("atoms", [1, 7])
def test_advantages_have_mean_0(atoms: int) -> None:
    """What is added to all advantages of an entry changes nothing."""
    network = network_of(dueling=True, atoms=atoms, v_min=-3, v_max=3)
    before = output_of(network)
    last = network.q_head[-1]  # type: ignore[index]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.bias.add_(7.0)
    after = output_of(network)
    torch.testing.assert_close(after.q_values, before.q_values, rtol=1e-4, atol=1e-5)


def test_values_are_the_means_of_the_distributions() -> None:
    network = network_of(atoms=7, v_min=-3, v_max=3, dueling=True)
    output = output_of(network)
    assert output.logits is not None
    assert output.logits.shape == (T, B, ACTIONS, 7)
    expected = (output.logits.softmax(-1) * torch.linspace(-3, 3, 7)).sum(-1)
    torch.testing.assert_close(output.q_values, expected)


@pytest.mark.parametrize("options", [{}, {"dueling": True, "atoms": 3}, {"lstm_size": 4, "dueling": True}])
def test_each_task_has_a_head_of_its_own(options: dict[str, Any]) -> None:
    network = network_of(**options)
    before = output_of(network).q_values
    last = network.q_head[-1]  # type: ignore[index]
    with torch.no_grad():
        half = len(last.bias) // 2
        last.bias[half:].add_(torch.arange(half) * 1.0)
    after = output_of(network).q_values
    assert torch.equal(after[:, ::2], before[:, ::2])
    assert not torch.isclose(after[:, 1::2], before[:, 1::2]).all()


def test_forbidden_actions_are_never_the_best_and_the_size_is_known_before_it_is_built() -> None:
    masked = SPEC.model_copy(
        update={"observation": {**SPEC.observation, "action_mask": ArraySpec(shape=(ACTIONS,), dtype="bool")}}
    )
    config = ValueNetworkConfig(dueling=True, atoms=5, noise="factorised", hidden_sizes=(16,))
    network = build_value_network(masked, config, seed=1)
    allowed = torch.zeros((T, B, ACTIONS), dtype=torch.bool)
    allowed[..., 3] = True
    given = inputs()
    given = given._replace(observation={**given.observation, "action_mask": allowed})
    assert (network(given, ()).q_values.argmax(-1) == 3).all()
    assert network_size(masked, config).parameters == sum(each.numel() for each in network.parameters())
