"""From what a gymnasium space holds to the named arrays that a network reads.

A space becomes a flat dictionary of arrays: Box and MultiBinary as they are, floats as float32; Discrete and
MultiDiscrete one-hot; Dict and Tuple, nested ones too, by their parts, whose keys are joined by ``/``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec as GymnasiumSpec

from machina.errors import UserError, nearest
from machina.specs import NO_BOUND, ArraySpec, EnvSpec
from machina.types import ACTION_MASK, OBSERVATION, Array, BoolArray

AnySpace = spaces.Space[Any]

MOST_CHOICES = 65_536
"""Of a one-hot array; with more it is a number, which a network can't distinguish from its neighbours."""

WRAPPER_REMEDY = "turn it into one with a wrapper (--wrapper module:function)"
"""What can be done about a space where one agent is trained."""


def observation_specs(
    name: str, space: AnySpace, remedy: str = WRAPPER_REMEDY, *, can_drop: bool = False
) -> dict[str, ArraySpec]:
    """The observation arrays of one slot, or of one agent.

    Args:
        name: of the environment, for messages.
        space: of one slot.
        remedy: what to do about a space that no network reads.
        can_drop: whether parts can be left out with ``--drop-keys``.

    Raises:
        UserError: there is no part, one is no space of numbers, or two have one key.
    """
    result: dict[str, ArraySpec] = {}
    for key, part in leaves(space):
        if key in result:
            raise UserError(f"environment {name!r}: two observations are called {key!r}; rename one")
        spec = _array_spec(key, part)
        if spec is None:
            drop = f"leave it out (--drop-keys {key}), or " if can_drop and _named(space) is not None else ""
            raise UserError(
                f"environment {name!r}: observation {key!r} is {part}, neither Box or MultiBinary nor Discrete or "
                f"MultiDiscrete of at most {MOST_CHOICES:,} choices; {drop}{remedy}"
            )
        result[key] = spec
    if not result.keys() - {ACTION_MASK}:
        raise UserError(f"environment {name!r}: observation space {space} holds nothing to see")
    return result


def flat_observation(specs: Mapping[str, ArraySpec], observation: Any, *, batched: bool = True) -> dict[str, Any]:
    """What an environment observes, by the keys of ``observation_specs``; one-hot where the spec has choices.

    An action mask becomes truth values. Other arrays are passed on as they are, neither copied nor checked.

    Args:
        specs: of ``observation_specs``.
        observation: of the space that the specs were read off: an array, or dictionaries and tuples of arrays.
        batched: whether every array has a leading axis of slots.

    Raises:
        ValueError: an array is missing, a choice is not one of its space, or a mask holds more than 0 and 1.
    """
    if not isinstance(observation, Mapping) and OBSERVATION in specs and len(specs) == 1:
        return {OBSERVATION: _read(OBSERVATION, specs[OBSERVATION], observation, batched)}
    return {key: _read(key, spec, _found(key, key, observation), batched) for key, spec in specs.items()}


def leaves(space: AnySpace, path: str = "") -> Iterator[tuple[str, AnySpace]]:
    """The spaces within a space that are neither Dict nor Tuple, by key; ``path`` leads to it."""
    parts = _named(space)
    if parts is None:
        yield path or OBSERVATION, space
        return
    for key, part in parts.items():
        yield from leaves(part, f"{path}/{key}" if path else key)


def as_mask(value: Any) -> BoolArray:
    """An action mask as truth values; it comes as bytes, integers or floats as often as not.

    Raises:
        ValueError: an element is neither 0 nor 1.
    """
    mask: Array = np.asarray(value)
    if mask.dtype != np.bool_ and not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"{ACTION_MASK} is neither 0 nor 1 everywhere: {value}")
    return mask.astype(np.bool_, copy=False)


def with_info_mask(spec: EnvSpec) -> EnvSpec:
    """``spec`` with an action mask that lies in the infos among its observations.

    Raises:
        UserError: it has no discrete actions, or a mask already.
    """
    if spec.action.kind == "continuous":
        raise UserError(f"environment {spec.name!r}: info_mask=use needs discrete actions; leave it out")
    if ACTION_MASK in spec.observation:
        raise UserError(
            f"environment {spec.name!r}: info_mask=use, but {ACTION_MASK} is observed already; leave it out"
        )
    mask = ArraySpec(shape=(spec.action.num_parameters,), dtype="bool")
    return spec.model_copy(update={"observation": {**spec.observation, ACTION_MASK: mask}})


class WithoutKeys(gymnasium.ObservationWrapper[Any, Any, Any]):
    """A single environment without some parts of its observation; a tuple becomes a dictionary by position."""

    def __init__(self, env: gymnasium.Env[Any, Any], keys: Sequence[str]) -> None:
        """Raises UserError when there is no part of such a key, or no part is left."""
        super().__init__(env)
        self._keys = tuple(keys)
        space: Any = env.observation_space
        if _named(space) is None:
            raise UserError(f"drop_keys={', '.join(keys)}: the observation has no parts, it is {space}; leave it out")
        for key in keys:
            try:
                space = spaces.Dict(_without(key, key, _named(space)))
            except ValueError as error:
                known = [key for key, _ in leaves(env.observation_space)]
                raise UserError(f"drop_keys={key}: observed are {', '.join(known)}{nearest(key, known)}") from error
        self.observation_space = space

    def observation(self, observation: Any) -> Any:
        """What is left of it."""
        for key in self._keys:
            observation = _without(key, key, _named(observation))
        return observation


def spec_without(spec: GymnasiumSpec, keys: Sequence[str]) -> GymnasiumSpec:
    """That of the environment in ``WithoutKeys``."""
    return GymnasiumSpec(
        spec.id, entry_point=functools.partial(_make_without, spec, keys), order_enforce=False, disable_env_checker=True
    )


def _make_without(spec: GymnasiumSpec, keys: Sequence[str], **options: Any) -> WithoutKeys:
    return WithoutKeys(gymnasium.make(spec, **options), keys)


def _named(whole: Any) -> Mapping[str, Any] | None:
    """The parts of a space or of an observation, those of a tuple by position; None for what has no parts."""
    if isinstance(whole, spaces.Dict):
        return whole.spaces
    if isinstance(whole, tuple | spaces.Tuple):
        return {str(index): part for index, part in enumerate(whole)}
    return whole if isinstance(whole, Mapping) else None


def _first_step(key: str, path: str, parts: Mapping[str, Any] | None) -> tuple[str, str]:
    """The first step of ``path``, which is the rest of ``key``, and what remains of it.

    Raises:
        ValueError: no part is called so.
    """
    if parts is None:
        raise ValueError(f"observation {key!r} is missing, there is no dictionary that could hold it")
    if path in parts:
        return path, ""
    for end in (index for index, letter in enumerate(path) if letter == "/"):
        if path[:end] in parts:
            return path[:end], path[end + 1 :]
    raise ValueError(f"observation {key!r} is missing, there is {', '.join(parts) or 'nothing'}")


def _without(key: str, path: str, parts: Mapping[str, Any] | None) -> dict[str, Any]:
    """The parts without the one at ``path``, which is the rest of ``key``."""
    step, rest = _first_step(key, path, parts)
    assert parts is not None
    left = dict(parts)
    inner = left.pop(step)
    if rest:
        less = _without(key, rest, _named(inner))
        if less:
            left[step] = spaces.Dict(less) if isinstance(inner, spaces.Space) else less
    return left


def _array_spec(key: str, space: AnySpace) -> ArraySpec | None:
    """None for a space that is not an array of numbers."""
    if isinstance(space, spaces.Discrete):
        return _one_hot(np.array([space.n]), np.array([space.start]))
    if isinstance(space, spaces.MultiDiscrete):
        if key == ACTION_MASK and not np.any(space.start) and np.all(space.nvec == 2):
            return ArraySpec(shape=space.shape, dtype="bool")
        return _one_hot(space.nvec, space.start)
    if not isinstance(space, spaces.Box | spaces.MultiBinary) or space.dtype is None:
        return None
    dtype = np.dtype(space.dtype)
    # Masks come as bytes, integers or floats as often as not.
    if key == ACTION_MASK or dtype == np.bool_:
        return ArraySpec(shape=space.shape, dtype="bool")
    if isinstance(space, spaces.MultiBinary):
        return ArraySpec(shape=space.shape, dtype=dtype.name, low=0, high=1)
    low = float(space.low.astype(np.float64).min(initial=np.inf))
    high = float(space.high.astype(np.float64).max(initial=-np.inf))
    if np.issubdtype(dtype, np.floating):
        least, greatest, name = -NO_BOUND, NO_BOUND, "float32"
    else:
        least, greatest, name = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max), dtype.name
    return ArraySpec(
        shape=space.shape,
        dtype=name,
        low=low if least < low <= greatest else None,
        high=high if least <= high < greatest else None,
    )


def _one_hot(counts: Array, starts: Array) -> ArraySpec | None:
    choices = tuple(int(count) for count in counts.flat)
    if sum(choices) > MOST_CHOICES:
        return None
    return ArraySpec(
        shape=(sum(choices),), dtype="bool", choices=choices, starts=tuple(int(start) for start in starts.flat)
    )


def _found(key: str, path: str, observation: Any) -> Any:
    """The array at ``path``, which is the rest of ``key``."""
    parts = _named(observation)
    step, rest = _first_step(key, path, parts)
    assert parts is not None
    return _found(key, rest, parts[step]) if rest else parts[step]


def _read(key: str, spec: ArraySpec, value: Any, batched: bool) -> Any:
    if key == ACTION_MASK:
        return as_mask(value)
    if not spec.choices:
        return value
    numbers = np.asarray(value)
    slots = numbers.shape[:1] if batched else ()
    if numbers.size != len(spec.choices) * (slots[0] if slots else 1):
        raise ValueError(f"observation {key!r} has shape {numbers.shape}, it must hold {len(spec.choices)} choices")
    columns = numbers.reshape(*slots, len(spec.choices))
    one_hot: list[BoolArray] = []
    for column, (count, start) in enumerate(zip(spec.choices, spec.starts, strict=True)):
        one_hot.append(columns[..., column, None] == np.arange(start, start + count))
        if not one_hot[-1].any(axis=-1).all():
            raise ValueError(f"observation {key!r} is {value}, not one of {count} choices from {start} on")
    return np.concatenate(one_hot, axis=-1)
