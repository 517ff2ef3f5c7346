"""What an environment returns, checked against the spaces that it declares.

gymnasium copies everything into buffers of the declared shape and dtype silently: floats in a space of
integers become 0, one number is repeated for six, axes are read in another order. Here that is a fault, before
gymnasium's copy.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from machina.errors import RAISED, EnvironmentFaultError, environment_fault
from machina.processes import seed_generators
from machina.types import ACTION_MASK, Array
from machina.waiting import within

CLOSE_TIMEOUT_S = 5.0
"""How long the close() of an environment in this process is waited for."""

PARTS = ("observation", "reward", "terminated", "truncated")
"""Of what a step returns, as messages call them."""

NUMBERS = "biuf"
"""Kinds of dtypes that numbers have: truth values, integers with and without sign, floating point."""


def as_declared(space: spaces.Space[Any], value: Any, what: str) -> Any:
    """``value`` as an element of ``space``: of the same shape, cast to its dtype where that loses nothing.

    Rounding to a shorter floating-point dtype counts as no loss, overflow does. Bounds of a Box are not checked,
    those of integers that name a choice (Discrete, MultiDiscrete, MultiBinary) are. Elements of other spaces, such as
    texts, are returned as they are.

    Args:
        space: of one environment, one agent, or a batch.
        value: what came; returned itself where it fits already.
        what: names it in the message: ``environment 'mine:Env-v0': observation``.

    Raises:
        EnvironmentFaultError: it does not fit; names the array, what came and what is declared.
    """
    if type(value) is np.ndarray and isinstance(space, spaces.Box):
        if value.dtype == space.dtype and value.shape == space.shape:
            return value
        return _cast(value, space, what)
    if isinstance(space, spaces.Dict):
        return _as_dict(space, value, what)
    if isinstance(space, spaces.Tuple):
        return _as_tuple(space, value, what)
    if isinstance(space, spaces.Box):
        return _cast(value, space, what)
    if isinstance(space, spaces.Discrete):
        return _choices(value, space, space.start, space.start + space.n, what)
    if isinstance(space, spaces.MultiDiscrete):
        return _choices(value, space, space.start, space.start + space.nvec, what)
    if isinstance(space, spaces.MultiBinary):
        return _choices(value, space, 0, 2, what)
    return value


def lossless(value: Any, dtype: np.dtype[Any], what: str) -> Array:
    """``value`` as an array of ``dtype``, itself where it is one; rounding of floats counts as no loss.

    Raises:
        EnvironmentFaultError: it holds no numbers, or one that the dtype can't hold.
    """
    array = _array(value, what)
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(dtype)
    if np.can_cast(array.dtype, dtype):
        return cast
    lost = _lost(array, cast)
    if lost.any():
        raise EnvironmentFaultError(f"{what} holds {array[lost].flat[0]} ({array.dtype}), its space is of {dtype}")
    return cast


def as_number(value: Any, what: str) -> float:
    """A reward.

    Raises:
        EnvironmentFaultError: it is no single number.
    """
    if isinstance(value, float):  # numpy's float64 as well
        return value
    array = _array(value, what)
    if array.shape:
        raise EnvironmentFaultError(f"{what} has shape {array.shape}, it must be one number")
    return float(array)


def as_flag(value: Any, what: str) -> bool:
    """Whether an episode ended.

    Raises:
        EnvironmentFaultError: neither a truth value nor 0 or 1.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    array = _array(value, what)
    if array.shape or array not in (0, 1):
        raise EnvironmentFaultError(f"{what} is {_short(value)}, it must be True or False")
    return bool(array)


class DeclaredEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A single environment that returns what its spaces declare, and whose errors name it.

    The seed of a reset also seeds its spaces, which many environments draw from, below wrappers as well.

    Args:
        env: of gymnasium's interface.
        name: such as ``module:Env-v0``.
        keep_infos: for a wrapper that may read them; else they are dropped, but for an action mask.
        own_process: it has its process for itself: seeds are for the process's global generators, too.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], name: str, *, keep_infos: bool = True, own_process: bool = False
    ) -> None:
        super().__init__(env)
        self._own_process = own_process
        self._name = name
        self._what = {part: f"environment {name!r}: {part}" for part in PARTS}
        self._space = env.observation_space
        self._keep_infos = keep_infos

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        Raises:
            EnvironmentFaultError: the environment raised, or the observation does not fit the space.
        """
        if seed is not None:
            layer: gymnasium.Env[Any, Any] = self
            while isinstance(layer, gymnasium.Wrapper):
                layer = layer.env
                layer.action_space.seed(seed)
                layer.observation_space.seed(seed)
            if self._own_process:
                seed_generators(seed)
        try:
            observation, infos = self.env.reset(seed=seed, options=options)
        except RAISED as error:
            raise environment_fault(self._name, self._name, "reset", error) from error
        return as_declared(self._space, observation, self._what["observation"]), self._kept(infos)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step; raises as ``reset`` does, also for a reward or an end that is none."""
        try:
            observation, reward, terminated, truncated, infos = self.env.step(action)
        except RAISED as error:
            raise environment_fault(self._name, self._name, "step", error) from error
        return (
            as_declared(self._space, observation, self._what["observation"]),
            as_number(reward, self._what["reward"]),
            as_flag(terminated, self._what["terminated"]),
            as_flag(truncated, self._what["truncated"]),
            self._kept(infos),
        )

    def close(self) -> None:
        """Close the environment. What that raises is of no consequence: what it started and left is ended."""
        if multiprocessing.parent_process() is None:
            close_in_time(self.env.close, self._name)
        else:  # a worker is killed when it takes too long
            with suppress(*RAISED):
                self.env.close()

    def _kept(self, infos: dict[str, Any]) -> dict[str, Any]:
        if self._keep_infos:
            return infos
        return {ACTION_MASK: infos[ACTION_MASK]} if infos and ACTION_MASK in infos else {}


def close_in_time(close: Callable[[], None], name: str) -> None:
    """Close an environment in this process; one that hangs is left behind, which a line on stderr reports."""
    try:
        within(CLOSE_TIMEOUT_S, close, f"environment {name!r}: close()")
    except EnvironmentFaultError as late:
        print(f"machina: {late}; it is left behind", file=sys.stderr, flush=True)
    except RAISED:
        pass


def declare_single_envs(env: Any, name: str) -> None:
    """Check the single environments of a vector environment that a user built, where they are in reach."""
    if isinstance(env.unwrapped, SyncVectorEnv):
        env.unwrapped.envs = [DeclaredEnv(single, name) for single in env.unwrapped.envs]


def _as_dict(space: spaces.Dict, value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise EnvironmentFaultError(f"{what} is a {type(value).__name__}, its space is a Dict")
    if value.keys() != space.spaces.keys():
        raise EnvironmentFaultError(
            f"{what} has keys {sorted(map(str, value))}, its space has {sorted(map(str, space.spaces))}"
        )
    return {key: as_declared(part, value[key], f"{what} {key!r}") for key, part in space.spaces.items()}


def _as_tuple(space: spaces.Tuple[Any], value: Any, what: str) -> tuple[Any, ...]:
    if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
        came = f"{len(value)} parts" if isinstance(value, tuple | list) else f"a {type(value).__name__}"
        raise EnvironmentFaultError(f"{what} is {came}, its space is a Tuple of {len(space.spaces)}")
    return tuple(as_declared(part, value[i], f"{what} [{i}]") for i, part in enumerate(space.spaces))


def _choices(value: Any, space: spaces.Space[Any], low: Any, high: Any, what: str) -> Any:
    """Integers from ``low`` on and below ``high``."""
    cast = _cast(value, space, what)
    outside = (cast < low) | (cast >= high)
    if np.any(outside):
        raise EnvironmentFaultError(f"{what} holds {cast[outside].flat[0]}, outside its space {space}")
    return cast if space.shape else cast[()]


def _cast(value: Any, space: spaces.Space[Any], what: str) -> Array:
    array = _array(value, what)
    if array.shape != space.shape:
        raise EnvironmentFaultError(f"{what} has shape {array.shape}, its space has {space.shape}")
    return lossless(array, np.dtype(space.dtype), what)


def _lost(array: Array, cast: Array) -> npt.NDArray[np.bool_]:
    """Where a cast changed the value."""
    if array.dtype.kind == "f" and cast.dtype.kind == "f":
        return np.isfinite(array) & ~np.isfinite(cast)
    if cast.dtype.kind == "f":  # numpy would compare large integers after rounding them
        with np.errstate(invalid="ignore"):
            return np.asarray(cast.astype(array.dtype) != array)
    return np.asarray(cast != array)


def _array(value: Any, what: str) -> Array:
    try:
        array = np.asarray(value)
    except Exception as error:  # parts of differing shapes; an object's own conversion may raise anything
        raise EnvironmentFaultError(f"{what} is not an array: {type(error).__name__}: {error}") from error
    if array.dtype.kind not in NUMBERS:
        raise EnvironmentFaultError(f"{what} is not an array of numbers, it is {_short(value)}")
    return array


def _short(value: Any) -> str:
    """A value in a message."""
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"a {type(value).__name__}"
