"""A user's wrapper, and the refusal of wrappers that learn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from machina.errors import RAISED, UserError, in_one_line_with_place
from machina.plugins import load_function

if TYPE_CHECKING:
    from machina.envs.slots import AnyVectorEnv

STATISTICS = "RunningMeanStd"
"""The class that gymnasium's normalizing wrappers hold, and copies of it in users' and other packages' code."""


def wrapped(env: AnyVectorEnv, wrapper: str | None) -> AnyVectorEnv:
    """A vector environment in the user's wrapper.

    Args:
        env: of every kind.
        wrapper: ``module:function``; None leaves it as it is.

    Raises:
        UserError: the wrapper can't be imported, raises, or returns no vector environment.
    """
    if wrapper is None:
        return env
    from gymnasium.vector import VectorEnv

    function = load_function(wrapper, "wrapper")
    try:
        result = function(env)
    except RAISED as error:
        reason = in_one_line_with_place(error, wrapper.partition(":")[0])
        raise UserError(f"wrapper {wrapper!r} raised {reason}") from error
    if not isinstance(result, VectorEnv):
        raise UserError(f"wrapper {wrapper!r} must return a gymnasium.vector.VectorEnv, got {type(result).__name__}")
    return result


def refuse_learning(env: AnyVectorEnv, given: str) -> None:
    """Refuse wrappers that learn from what passes through them.

    Every group of environments would have statistics of its own, checkpoints none, and an evaluation would start
    without; what the policy learned to see is nowhere. Machina's own statistics are part of the checkpoint.

    Args:
        env: a vector environment in its wrappers.
        given: what the user gave, for the message: ``wrapper 'mine:scaled'``.

    Raises:
        UserError: one of the wrappers, or an environment itself, holds running statistics.
    """
    for layer in _layers(env):
        held = [name for name, value in vars(layer).items() if any(map(_is_statistics, _within(value)))]
        if not held:
            continue
        kind = type(layer).__name__
        remedy = "--popart" if "Reward" in kind or held[0].startswith("return") else "--observation-filter"
        raise UserError(
            f"{given}: {kind} learns statistics ({held[0]}), of which every group of environments would have its own, "
            f"and eval, watch and load_policy none; leave it out and use {remedy}"
        )


def _within(value: Any) -> Iterable[Any]:
    """A value, or what a container holds; not what those hold in turn, which may be a whole data set, or itself."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else (value,)


def _is_statistics(value: Any) -> bool:
    return any(kind.__name__ == STATISTICS for kind in type(value).__mro__)


def _layers(env: AnyVectorEnv) -> list[Any]:
    """Wrappers from the outermost on, the environment itself, and the first of the single environments that it holds.

    Anybody's class may call anything ``env`` or ``envs``: an engine without attributes, or itself.
    """
    layers: list[Any] = []
    layer: Any = env
    while hasattr(layer, "__dict__") and not any(layer is known for known in layers):
        layers.append(layer)
        inner, several = vars(layer).get("env"), vars(layer).get("envs")
        if inner is None and isinstance(several, list | tuple) and several:
            inner = several[0]  # all are made alike
        layer = inner
    return layers
