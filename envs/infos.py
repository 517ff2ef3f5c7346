"""Infos of single environments as one dictionary for all slots."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from machina.types import Array


class MergedInfos(VectorEnv[Any, Any, Any]):
    """A vector environment whose infos may change their type or length from step to step and slot to slot.

    gymnasium allocates an array for a key by the first value that comes, then assigns the others: a text is refused, a
    fraction is cut to an integer, one number is repeated. Here such a key becomes an array of objects.
    """

    def _add_info(self, vector_infos: dict[str, Any], env_info: dict[str, Any], env_num: int) -> dict[str, Any]:
        for key, value in env_info.items():
            merged = vector_infos.get(key)
            if merged is None or _fits(merged, value):
                super()._add_info(vector_infos, {key: value}, env_num)
                continue
            known = vector_infos[f"_{key}"]
            objects = merged if _is_objects(merged) else np.full(self.num_envs, None, object)
            if objects is not merged:
                for slot in np.flatnonzero(known).tolist():
                    objects[slot] = _of_slot(merged, slot)
            objects[env_num] = value
            known[env_num] = True
            vector_infos[key] = objects
        return vector_infos


def _fits(merged: Any, value: Any) -> bool:
    """Whether gymnasium's assignment keeps the value."""
    if isinstance(merged, dict) or isinstance(value, dict):
        return isinstance(merged, dict) and isinstance(value, dict)
    if _is_objects(merged):
        return not isinstance(value, np.ndarray | list | tuple)
    try:
        array = np.asarray(value)
    except ValueError:
        return False
    return array.shape == merged.shape[1:] and bool(np.can_cast(array.dtype, merged.dtype))


def _is_objects(merged: Any) -> bool:
    return isinstance(merged, np.ndarray) and merged.dtype == object


def _of_slot(merged: dict[str, Any] | Array, slot: int) -> Any:
    """What one slot said."""
    if isinstance(merged, dict):
        return {key: _of_slot(part, slot) for key, part in merged.items() if f"_{key}" in merged}
    return merged[slot]
