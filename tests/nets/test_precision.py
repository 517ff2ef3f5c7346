import pytest
import torch

from machina.errors import UserError
from machina.nets.precision import resolve_device, resolve_precision

CPU = torch.device("cpu")
IMAGE, VECTOR = 4 * 84 * 84, 4 * 17
"""Bytes of an observation."""


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "", "cuda:99"])
def test_unknown_or_absent_devices_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="choose"):
        resolve_device(name)


def test_auto_takes_bfloat16_only_where_the_processor_has_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("machina.nets.precision.processor_vendor", lambda: "AuthenticAMD")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": False})
    chosen = resolve_precision("auto", CPU, IMAGE)
    assert chosen.dtype == torch.bfloat16
    assert "avx512_bf16" in chosen.reason
    chosen = resolve_precision("auto", CPU, VECTOR)
    assert chosen.dtype == torch.float32
    assert "too small" in chosen.reason
    assert resolve_precision("bfloat16", CPU, VECTOR).dtype == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    chosen = resolve_precision("auto", CPU, IMAGE)
    assert chosen.dtype == torch.float32
    assert "no bfloat16 units" in chosen.reason
    assert "slow" in resolve_precision("bfloat16", CPU, IMAGE).reason


@pytest.mark.parametrize("amx", [False, True])
def test_intel_s_units_pay_with_amx_alone(amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("machina.nets.precision.processor_vendor", lambda: "GenuineIntel")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": amx})
    chosen = resolve_precision("auto", CPU, IMAGE)
    assert chosen.dtype == (torch.bfloat16 if amx else torch.float32)
    assert ("without amx_bf16, where bfloat16 is slower" in chosen.reason) is not amx
    assert ("slow" in resolve_precision("bfloat16", CPU, IMAGE).reason) is not amx


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match="float16"):
        resolve_precision("float16", CPU, IMAGE)


def test_autocast_covers_the_network_only_in_bfloat16() -> None:
    layer = torch.nn.Linear(2, 2)
    for name in ("bfloat16", "float32"):
        precision = resolve_precision(name, CPU, VECTOR)
        with precision.autocast(CPU):
            assert layer(torch.zeros(1, 2)).dtype == precision.dtype
