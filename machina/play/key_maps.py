"""Which keys do what in an environment that a person plays."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError

from machina.actions import policy_actions
from machina.config import Config, one_line
from machina.errors import UserError
from machina.specs import ActionSpec
from machina.types import Array
from machina.yaml_files import load_yaml

RESERVED = {"p", "n", "+", "=", "[+]", "-", "[-]", "tab", "return", "backspace"}
"""Keys of the window itself."""

ActionValue = int | float | tuple[int | float, ...]


class KeyMap(Config):
    """Keys and the actions that they stand for, as the environment takes them."""

    keys: dict[str, ActionValue] = Field(
        description="A key, or keys held together joined by +, such as left or left+space, to an action: a number, or "
        "a list of numbers. Of several that are held the largest combination counts, then the first."
    )
    idle: ActionValue | Literal["repeat", "wait"] = Field(
        default="wait",
        description="Without a key: an action; repeat: the last one; wait: nothing happens until a key is pressed.",
    )


class Keys:
    """A key map for one environment.

    Args:
        key_map: as written.
        action: of the environment.
        source: where the map comes from, for messages.

    Raises:
        UserError: a key that the window needs itself, or an action that the environment does not take.
    """

    def __init__(self, key_map: KeyMap, action: ActionSpec, source: str) -> None:
        combinations = {frozenset(text.lower().split("+")): value for text, value in key_map.keys.items()}
        for text in key_map.keys:
            if taken := RESERVED & set(text.lower().split("+")):
                raise UserError(f"keys {source}: {min(taken)!r} in {text!r} is a key of the window; choose another")
        self.names = frozenset().union(*combinations)
        """All keys of the map."""
        self._actions = [
            (keys, _as_action(value, action, f"keys {source}: {'+'.join(sorted(keys))}"))
            for keys, value in sorted(combinations.items(), key=lambda item: -len(item[0]))
        ]
        self._waits = key_map.idle == "wait"
        self._idle: Array | None = None
        if not isinstance(key_map.idle, str):
            self._idle = _as_action(key_map.idle, action, f"keys {source}: idle")
        self._last = self._idle

    def begin(self) -> None:
        """An episode begins: there is no last action to repeat."""
        self._last = self._idle

    def action(self, pressed: Set[str]) -> Array | None:
        """``[1, *action.shape]``, the policy's way, for the keys that are held; None: wait for a key."""
        for keys, action in self._actions:
            if keys <= pressed:
                self._last = action
                return action
        if self._idle is not None:
            return self._idle
        return None if self._waits else self._last


def load_keys(file: Path, action: ActionSpec) -> Keys:
    """A key map from a YAML file with ``keys`` and ``idle``, see ``KeyMap``.

    Raises:
        UserError: no such file, or not a key map of the environment.
    """
    try:
        return Keys(KeyMap.model_validate(load_yaml(file)), action, f"'{file}'")
    except ValidationError as error:
        raise UserError(one_line(error, f"keys '{file}'")) from error


def default_keys(environment: str, action: ActionSpec, meanings: tuple[str, ...] = ()) -> Keys:
    """The keys of an environment for which none are given.

    Args:
        environment: its name.
        action: of it.
        meanings: of an Atari game's actions, such as UPRIGHTFIRE.

    Raises:
        UserError: there is no obvious map.
    """
    stem = environment.rpartition(":")[2].rpartition("-v")[0]
    if meanings:
        key_map = KeyMap(keys={_atari_keys(name): i for i, name in enumerate(meanings) if name != "NOOP"}, idle=0)
    elif stem in KEY_MAPS and action.kind == "discrete":
        key_map = KEY_MAPS[stem]
    elif action.kind == "discrete" and action.choices[0] <= 10:
        key_map = KeyMap(keys={str(number): number for number in range(action.choices[0])})
    elif action.kind == "continuous" and len(action.low) == 1 and np.isfinite([*action.low, *action.high]).all():
        key_map = KeyMap(
            keys={"left": (action.low[0],), "right": (action.high[0],)}, idle=((action.low[0] + action.high[0]) / 2,)
        )
    else:
        raise UserError(f"keys: no keys are known for the actions of {environment!r}; name a file with --keys")
    return Keys(key_map, action, f"of {environment}")


KEY_MAPS = {
    "CartPole": KeyMap(keys={"left": 0, "right": 1}, idle="repeat"),
    "MountainCar": KeyMap(keys={"left": 0, "right": 2}, idle=1),
    "Acrobot": KeyMap(keys={"left": 0, "right": 2}, idle=1),
    "LunarLander": KeyMap(keys={"left": 1, "up": 2, "right": 3}, idle=0),
    "FrozenLake": KeyMap(keys={"left": 0, "down": 1, "right": 2, "up": 3}),
}
"""Of gymnasium's environments, by the name without its version."""


def _atari_keys(meaning: str) -> str:
    """``UPRIGHTFIRE`` as ``up+right+space``."""
    parts = {"UP": "up", "DOWN": "down", "RIGHT": "right", "LEFT": "left", "FIRE": "space"}
    return "+".join(key for part, key in parts.items() if part in meaning)


def _as_action(value: ActionValue, spec: ActionSpec, what: str) -> Array:
    try:
        return policy_actions(spec, np.asarray(value)[None])
    except ValueError as error:
        raise UserError(f"{what}: {value!r} is no action of the environment: {error}") from error
