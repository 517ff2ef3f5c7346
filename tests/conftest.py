"""What every test starts from."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A script's shell starts what runs in the background like this, and commands that tests start would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def one_torch_thread() -> None:
    """The tests' networks are tiny: more threads cost more than they give, and change sums."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements of this machine stay what they are."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
