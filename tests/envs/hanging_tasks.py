"""Environments that never answer, as they would lie in the working directory."""

import re
import signal
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Hanging(gymnasium.Env):
    """Action 1 hangs: in Python, in native code that keeps the interpreter lock, or deaf to SIGTERM."""

    observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, kind: str) -> None:
        self.kind = kind
        if kind == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed, options=options)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        if action == 1:
            wait_for_nobody(self.kind)
        return np.zeros(1, np.float32), 0.0, False, False, {}


def wait_for_nobody(kind: str) -> None:
    if kind == "native":
        re.match(r"(a+)+$", "a" * 60 + "b")
    time.sleep(3600)


for name in ("sleeping", "native", "deaf"):
    gymnasium.register(f"{name.title()}-v0", "hanging_tasks:Hanging", kwargs={"kind": name})
