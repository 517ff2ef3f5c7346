"""A user's network that fails is named in one line, with the place in the user's code."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from machina.errors import RunFailedError, UserError
from machina.nets.build import NETWORKS, build_network, register_network
from machina.nets.config import NetworkConfig
from machina.nets.network import CoreTensors, NetworkInput, NetworkOutput, PolicyNetwork
from machina.specs import ArraySpec, EnvSpec, discrete

SPEC = EnvSpec(
    name="e", tasks=("t",), observation={"observation": ArraySpec(shape=(4,), dtype="float32")}, action=discrete(3)
)


class Faulty(PolicyNetwork):
    """Linear; `fault` says how it fails, at entries of value 1 when it is "late"."""

    core_state_shapes = ()

    def __init__(self, fault: str) -> None:
        super().__init__()
        if fault == "builder":
            raise KeyError("width")
        self.fault = fault
        self.policy_head = nn.Linear(4 + (fault == "layer"), 3)
        self.value_head = nn.Linear(4, 1)

    def forward(self, inputs: NetworkInput, core_state: CoreTensors) -> NetworkOutput:
        features = inputs.observation["observation"]
        if self.fault == "late" and features.max() == 1:
            raise RuntimeError("the engine stalled\nsecond line")
        if self.fault == "squeezes":
            return NetworkOutput(self.policy_head(features), self.value_head(features).squeeze(1), core_state)
        return NetworkOutput(self.policy_head(self.one_entry(features)), self.value_head(features), core_state)

    def one_entry(self, features: Tensor) -> Tensor:
        return features[:1] if self.fault == "short" else features


def builder_of(fault: str) -> Callable[[EnvSpec, NetworkConfig], PolicyNetwork]:
    """Builds a network with this fault."""
    return lambda _spec, _config: Faulty(fault)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    for fault in ("", "builder", "layer", "late", "squeezes", "short"):
        register_network(fault or "sound", builder_of(fault))
    yield
    NETWORKS.clear()


def build(name: str) -> PolicyNetwork:
    return build_network(SPEC, NetworkConfig(network_name=name), seed=1)


def place(text: str) -> str:
    lines, first = inspect.getsourcelines(Faulty)
    return f"({__file__}:{first + next(i for i, line in enumerate(lines) if text in line)})"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("builder", "network 'builder': the builder raised KeyError: 'width' {}"),
        (
            "layer",
            "network 'layer': forward raised RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x4 and 5x3) {}",
        ),
    ],
)
def test_what_fails_at_once_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build(name)
    code = {"builder": "raise KeyError", "layer": "self.policy_head(self.one_entry"}[name]
    assert str(caught.value) == message.format(place(code))


def test_what_fails_later_stops_the_run_and_is_named() -> None:
    network, changing = build("late"), build("sound")
    entries = torch.ones(2, 1)
    inputs = NetworkInput(
        {"observation": torch.ones(2, 1, 4)}, entries, entries.long(), entries.bool(), entries.long() * 0
    )
    with pytest.raises(RunFailedError) as caught:
        network(inputs, ())
    reason = "forward raised RuntimeError: the engine stalled"
    assert str(caught.value) == f"network 'late': {reason} {place('raise RuntimeError')}"
    changing.get_submodule("policy_head").weight = nn.Parameter(torch.zeros(1, 4))
    changing.get_submodule("policy_head").bias = nn.Parameter(torch.zeros(1))
    with pytest.raises(RunFailedError, match=r"'sound': .* shapes \[\(2, 1, 3\), \(2, 1, 1\)\], got \[\(2, 1, 1\)"):
        changing(inputs, ())


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("squeezes", "[(1, 1, 3), (1, 1)] (1 entries of 1 slots)"),
        ("short", "[(1, 2, 3), (3, 2, 1)] (3 entries of 2 slots)"),
    ],
)
def test_shapes_are_asked_for_with_other_numbers_of_entries_and_slots(name: str, got: str) -> None:
    build("sound")
    with pytest.raises(UserError) as caught:
        build(name)
    assert str(caught.value).endswith(f"got {got}")


def test_a_module_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_networks.py").write_text("import torch\nWIDTH = torch.nowhere\n")
    (tmp_path / "misspelt_networks.py").write_text("def network(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(UserError, match=r"raised AttributeError: .*nowhere' \(.*broken_networks.py:2\)$"):
        build("broken_networks:network")
    with pytest.raises(UserError, match=r"raised SyntaxError: .*\(misspelt_networks.py, line 1\)$"):
        build("misspelt_networks:network")
