"""A run that ends while its environments are being built closes them as well."""

from __future__ import annotations

import threading
import time
from typing import Any

import gymnasium
import numpy as np
import pytest
from actor_groups import running
from gymnasium import spaces

OPEN: list[int] = []


class Slow(gymnasium.Env[Any, Any]):
    """Takes its time to be built; says whether it was closed."""

    observation_space = spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        if OPEN:  # the first is built to read its spaces
            time.sleep(0.5)
        OPEN.append(threading.get_ident())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed, options=options)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:  # noqa: ARG002 (goes nowhere)
        return np.zeros(2, np.float32), 0.0, False, False, {}

    def close(self) -> None:
        OPEN.pop()


@pytest.mark.parametrize("place", ["inline", "local"])
def test_environments_that_come_too_late_are_closed(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("machina.actors.inline.CLOSE_TIMEOUT_S", 0.01)
    gymnasium.register(f"Slow{place}-v0", lambda **_: Slow())
    OPEN.append(0)
    try:
        with running(f"Slow{place}-v0", place, {"batch_size": 1}, {"envs_per_task": 1, "processes": False}):
            pass
        deadline = time.monotonic() + 10
        while any(thread.name in ("build", "actor 0") for thread in threading.enumerate()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert OPEN == [0]
    finally:
        OPEN.clear()
