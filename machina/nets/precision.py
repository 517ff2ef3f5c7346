"""Which device and which number format, and the reason in words."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch

from machina.errors import UserError
from machina.hardware import processor_vendor

LEAST_OBSERVATION = 4096
"""Bytes of an observation from which on bfloat16 pays. Below, it gains little (8 % on boards of Connect Four) and may
cost learning: 2 of 5 seeds of `recall` failed in bfloat16, none of 4 in float32 (docs/results.md)."""

INTEL = "GenuineIntel"
"""Its AVX-512 units multiply bfloat16 no faster than float32, and conversions come on top: PQN's learner on Pong made
495 env steps/s in bfloat16, 715 in float32. Virtual machines may hide AMX and leave these."""


class Precision(NamedTuple):
    """The number format of torsos; heads, losses and optimizers are float32 always."""

    dtype: torch.dtype
    reason: str
    """One sentence for the user."""

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context in which a network runs."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(device.type, dtype=self.dtype)


def resolve_device(name: str) -> torch.device:
    """The device meant by ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UserError: no such device here.
    """
    check_device(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = torch.cuda.device_count()
    if name != "cpu" and int(name.partition(":")[2] or 0) >= count:
        raise UserError(f"device {name!r} is not here: PyTorch sees {count} CUDA devices; choose auto or cpu")
    return torch.device(name)


def check_device(name: str) -> None:
    """Whether it is here or on another machine.

    Raises:
        UserError: there is no device of that name anywhere.
    """
    kind, colon, index = name.partition(":")
    if name not in ("auto", "cpu", "cuda") and not (kind == "cuda" and colon and index.isdecimal()):
        raise UserError(f"device {name!r} is unknown; choose auto, cpu, cuda or cuda:N")


def resolve_precision(name: str, device: torch.device, observation_bytes: int) -> Precision:
    """The format meant by ``auto``, ``float32`` or ``bfloat16`` on this device, for observations of this size.

    Raises:
        UserError: an unknown name.
    """
    has_units, units = _bfloat16_units(device)
    if name == "auto":
        if observation_bytes < LEAST_OBSERVATION:
            return Precision(torch.float32, "float32: the observations are too small to gain from bfloat16")
        if has_units:
            return Precision(torch.bfloat16, f"bfloat16: {units}")
        return Precision(torch.float32, f"float32: {units}, where bfloat16 is slower than float32")
    if name == "bfloat16":
        return Precision(torch.bfloat16, f"bfloat16 as requested: {units}{'' if has_units else ', so this is slow'}")
    if name == "float32":
        return Precision(torch.float32, "float32 as requested")
    raise UserError(f"precision {name!r} is unknown; choose auto, float32 or bfloat16")


def _bfloat16_units(device: torch.device) -> tuple[bool, str]:
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        has_units = torch.cuda.is_bf16_supported(including_emulation=False)
        return has_units, f"{name} has {'' if has_units else 'no '}bfloat16 units"
    capabilities = torch.cpu.get_capabilities()
    units = [unit for unit in ("amx_bf16", "avx512_bf16") if capabilities.get(unit)]
    if units == ["avx512_bf16"] and processor_vendor() == INTEL:
        return False, "the processor has Intel's avx512_bf16 without amx_bf16"
    if units:
        return True, f"the processor has bfloat16 units ({', '.join(units)})"
    return False, "the processor has no bfloat16 units"
