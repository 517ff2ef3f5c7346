"""What every test starts from."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from processes import STARTED

ENDING = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}
for number, handler in ENDING.items():
    if signal.getsignal(number) is signal.SIG_IGN:
        # A script's shell, or nohup, starts what runs in the background like this; commands of tests would inherit it.
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """An environment that a test builds in this process may change them; commands of later tests would inherit it."""
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def commands_end_with_their_test() -> Iterator[None]:
    """A test that fails must not leave its command running alongside the others."""
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture(autouse=True)
def one_torch_thread() -> None:
    """The tests' networks are tiny: more threads cost more than they give, and change sums."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements of this machine stay what they are."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
