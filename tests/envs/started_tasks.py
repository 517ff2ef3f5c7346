"""Environments that start programs, return infos of all kinds, draw from global generators, and die."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv, VectorRewardWrapper


class Short(gymnasium.Env[Any, Any]):
    """Episodes of eight steps."""

    observation_space = spaces.Box(0, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, kind: str = "", render_mode: str | None = None) -> None:
        self.kind, self.render_mode = kind, render_mode
        self.steps = 0

    def _see(self) -> Any:
        return np.zeros(2, np.float32)

    def _info(self) -> dict[str, Any]:
        return {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed, options=options)
        self.steps = 0
        return self._see(), self._info()

    def step(self, action: Any) -> Any:  # noqa: ARG002
        self.steps += 1
        return self._see(), 1.0, False, self.steps == 8, self._info()

    def render(self) -> Any:
        return np.zeros((16, 16, 3), np.uint8)


class Told(Short):
    """Infos that gymnasium can't merge: their type or length changes."""

    def _info(self) -> dict[str, Any]:
        n = int(self.np_random.integers(3))
        infos: dict[str, Any] = {
            "none_or_int": None if n else 1,
            "visited": np.arange(n + 1),
            "none_or_dict": {"speed": 1.0} if n else None,
            "int_or_text": 3 if n else "done",
            "int_or_list": 2 if n else [1, 2, 3],
        }
        return {self.kind: infos[self.kind]}


class MaskedSteps(Short):
    """A mask in the infos of steps, none in those of a reset."""

    def _info(self) -> dict[str, Any]:
        return {"action_mask": np.array([1, 0])} if self.steps else {}


class Drawn(Short):
    """Observations from the generators that all code of a process shares, or from the space."""

    def __init__(self, kind: str = "", render_mode: str | None = None) -> None:
        super().__init__(kind, render_mode)
        self.observation_space = spaces.Box(0, 1, (2,), np.float32)
        self.level = np.random.rand()

    def _see(self) -> Any:
        if self.kind == "space":
            return self.observation_space.sample()
        if self.kind == "constructor":
            return np.full(2, self.level, np.float32)
        return np.array([np.random.rand(), random.random()], np.float32)


def doubled(**options: Any) -> gymnasium.Env[Any, Any]:
    """In a wrapper that gives it another space than the one that it draws from."""
    return gymnasium.wrappers.RescaleObservation(Drawn("space", **options), np.float32(0), np.float32(2))


class Noisy(VectorRewardWrapper):
    """Draws in the process that steps all environments."""

    def rewards(self, reward: Any) -> Any:
        return reward + np.random.rand(self.num_envs)


def noisy(env: VectorEnv) -> VectorEnv:
    return Noisy(env)


class Started(Short):
    """Starts a program, as simulators do.

    Args:
        kind: the program is ended by close(); left by it; detached into a session of its own by a program that is gone;
            or it is ended by close(), but a step, a reset or a close hangs.
        argument: of the program.
        render_mode: as gymnasium's.
    """

    def __init__(self, kind: str, argument: str, render_mode: str | None = None) -> None:
        # The parent's, which reads the spaces, behaves.
        super().__init__("ended" if multiprocessing.parent_process() is None else kind, render_mode)
        kind = self.kind
        command = ["sleep", argument]
        if kind == "detached":
            code = f"import subprocess; subprocess.Popen({command}, start_new_session=True)"
            subprocess.run([sys.executable, "-S", "-c", code], check=True)
        else:
            self.program = subprocess.Popen(command)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if self.kind == "reset":
            time.sleep(3600)
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        if self.kind == "step" and self.steps == 2:
            time.sleep(3600)
        return super().step(action)

    def close(self) -> None:
        if self.kind == "close":
            time.sleep(3600)
        if self.kind not in ("left", "detached"):
            self.program.terminate()
            self.program.wait()


class Dying(Short):
    """Its process dies at the third step, or its constructor fails."""

    def __init__(self, kind: str, licence: str = "", render_mode: str | None = None) -> None:
        super().__init__(kind, render_mode)
        self.licence = Path(licence) if licence else None
        if self.licence is not None:  # one at a time has it, as a port
            self.licence.touch(exist_ok=False)
        if kind == "file":
            Path("/nowhere/level.txt").read_text()

    def close(self) -> None:
        if self.licence is not None:
            self.licence.unlink()

    def step(self, action: Any) -> Any:
        if self.steps == 2:
            if self.kind == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.kind == "signalled":  # one without a name
                os.kill(os.getpid(), signal.SIGRTMIN + 6)
            if self.kind == "exits":
                os._exit(3)
            if self.kind == "leaves":
                sys.exit("no licence")
            if self.kind == "own":
                raise OwnError(1, 2)
        return super().step(action)


class OwnError(Exception):
    """Can't be unpickled."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} is not {other}")


for kind in ("none_or_int", "visited", "none_or_dict", "int_or_text", "int_or_list"):
    gymnasium.register(f"Told_{kind}-v0", "started_tasks:Told", kwargs={"kind": kind})
for kind in ("global", "space", "constructor"):
    gymnasium.register(f"Drawn_{kind}-v0", "started_tasks:Drawn", kwargs={"kind": kind})
gymnasium.register("Drawn_wrapped-v0", doubled)
for kind in ("killed", "signalled", "exits", "leaves", "own", "file"):
    gymnasium.register(f"Dying_{kind}-v0", "started_tasks:Dying", kwargs={"kind": kind})
gymnasium.register("MaskedSteps-v0", "started_tasks:MaskedSteps")
gymnasium.register("Lambda-v0", lambda **options: Short(**options))
