"""Importing Minari data sets as recorded episodes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from machina.actions import policy_actions
from machina.config import EnvConfig
from machina.demonstrations import EpisodeHeader, Who, check_suits, load_set, write_episode
from machina.demonstrations.demonstration_set import differences
from machina.demonstrations.episode import SUFFIX
from machina.demonstrations.recorder import library_versions
from machina.envs.builders import parse_environment
from machina.envs.declared import lossless
from machina.envs.observations import flat_observation
from machina.errors import EnvironmentFaultError, UserError
from machina.jobs.demos_export import DATASETS_PATH, OWN, needs_minari
from machina.jobs.film import frames_per_s
from machina.specs import EnvSpec
from machina.types import OBSERVATION, Array

DATA_FILE = Path("data") / "main_data.hdf5"


class Imported(NamedTuple):
    """What became of a data set's episodes."""

    files: tuple[Path, ...]
    refused: tuple[str, ...]
    """Lines about episodes that don't fit, with the reason."""
    open_ended: tuple[str, ...]
    """Episodes that neither terminate nor are truncated: what follows their last step is not known."""


class _UnfitError(Exception):
    """Why an episode is not taken."""


def import_demos(source: str, environment: str, env: EnvConfig, out: Path) -> Imported:
    """Read a Minari data set into a set of recorded episodes.

    Args:
        source: an HDF5 file of Minari's, a data set's folder, or the id of one that lies where Minari keeps them.
        environment: that the episodes are of.
        env: its configuration.
        out: folder of the set, which may hold episodes of the same environment.

    Raises:
        UserError: no such data set, another format, an environment that can't be built, or no episode that fits it.
        RunFailedError: the disk is full or refuses.
    """
    needs_minari()
    import h5py

    file = _file(source)
    spec = parse_environment(environment, env).spec
    if spec.seats or spec.num_tasks > 1:
        raise UserError(f"env={environment!r}: has several {'agents' if spec.seats else 'tasks'}; name one of one")
    if out.exists() and any(out.glob(f"*{SUFFIX}")):
        check_suits(load_set(out), spec)
    files: list[Path] = []
    refused: list[str] = []
    open_ended: list[str] = []
    try:
        with h5py.File(file, "r") as content:
            for name in sorted(content, key=_number):
                try:
                    header, arrays = _episode(content[name], spec, source)
                except (_UnfitError, KeyError, ValueError, EnvironmentFaultError) as error:
                    refused.append(f"refused {name}: {error.args[0] if error.args else error}")
                    continue
                files.append(write_episode(out, header, arrays))
                if not (arrays["terminated"][-1] or arrays["truncated"][-1]):
                    open_ended.append(name)
    except OSError as error:
        raise UserError(f"data set '{file}' can't be read as HDF5: {str(error).splitlines()[0]}") from error
    if not files:
        raise UserError(f"data set '{file}' has no episode of {environment}; {(refused or ['it is empty'])[0]}")
    return Imported(tuple(files), tuple(refused), tuple(open_ended))


def _file(source: str) -> Path:
    """The HDF5 file that the user means."""
    path = Path(source)
    local = Path(os.environ.get(DATASETS_PATH, Path.home() / ".minari" / "datasets")) / source
    for file in (path, path / DATA_FILE, path / DATA_FILE.name, local / DATA_FILE):
        if file.is_file():
            return file
    raise UserError(
        f"data set {source!r}: neither an HDF5 file, nor a data set's folder, nor in '{local}'; "
        f"fetch it with `minari download {source}`, or name its main_data.hdf5"
    )


def _number(name: str) -> tuple[int, str]:
    digits = re.search(r"\d+$", name)
    return (int(digits[0]) if digits else -1, name)


def _episode(group: Any, spec: EnvSpec, source: str) -> tuple[EpisodeHeader, dict[str, Array]]:
    """One episode of the file. Raises _UnfitError, or what reading and comparing raise, with the reason."""
    own = _own_header(group, spec)
    ours = {} if own is None else _read(group["infos"])[OWN]
    native, rewards = np.asarray(_read(group["actions"])), np.asarray(_read(group["rewards"]))
    length = len(native)
    if not length:
        raise _UnfitError("it has no step")
    observations = _observations(group["observations"], spec, length)
    arrays: dict[str, Array] = {}
    for key, array in observations.items():
        arrays[f"observation/{key}"] = _frames(array) if key == OBSERVATION and spec.stores_frames_once else array
    arrays["action"] = np.asarray(ours["action"]) if ours else policy_actions(spec.action, native)
    arrays["who"] = np.asarray(ours["who"]) if ours else np.full(length, Who.UNKNOWN, np.uint8)
    arrays["reward"] = _arrived("rewards", rewards, length, np.float32)
    arrays["terminated"] = _arrived("terminations", _read(group["terminations"]), length, np.bool_)
    arrays["truncated"] = _arrived("truncations", _read(group["truncations"]), length, np.bool_)
    arrays["life_lost"] = np.asarray(ours["life_lost"]) if ours else np.zeros(length + 1, np.bool_)
    if (arrays["terminated"] | arrays["truncated"])[:-1].any():
        raise _UnfitError("it ends before its last step")
    if not np.isfinite(arrays["reward"]).all():
        raise _UnfitError("a reward is not finite")
    if own is not None:
        return own, arrays
    header = EpisodeHeader(
        spec=spec,
        seed=None if (seed := group.attrs.get("seed")) is None else int(seed),
        length=length,
        episode_return=float(arrays["reward"].sum(dtype=np.float64)),
        players={Who(number).name.lower(): source for number in sorted(set(arrays["who"].tolist()))},
        versions=library_versions(),
        pictures_per_s=frames_per_s(spec, None),
    )
    return header, arrays


def _own_header(group: Any, spec: EnvSpec) -> EpisodeHeader | None:
    """The header of an episode that ``machina demos export`` wrote; None of others."""
    if OWN not in group.attrs:
        return None
    header = EpisodeHeader.model_validate(json.loads(group.attrs[OWN]))
    for what, theirs, here in differences(header.spec, spec):
        raise _UnfitError(f"{what} is {theirs}, here it is {here}; use the options that it was recorded with")
    return header


def _read(part: Any) -> Any:
    """A dataset as an array, a group as a dictionary; Minari's tuples are groups of ``_index_0`` and so on."""
    if not isinstance(part, Mapping):
        return part[()]
    names = list(part)
    if names and all(re.fullmatch(r"_index_\d+", name) for name in names):
        return tuple(_read(part[f"_index_{number}"]) for number in range(len(names)))
    return {name: _read(part[name]) for name in names}


def _observations(group: Any, spec: EnvSpec, length: int) -> dict[str, Array]:
    """``[T + 1, ...]`` each, as the environment's adapter would have given them."""
    content = _read(group)
    result: dict[str, Array] = {}
    for key, expected in spec.observation.items():
        array = _leaf(content, key)
        if array is not None and array.dtype == np.object_:
            raise _UnfitError(f"observation {key!r} is stored as JPEG pictures, which are not what was seen")
        if array is None or array.shape[1:] != expected.shape:  # not one of ours: choices become one-hot
            array = np.asarray(flat_observation({key: expected}, content)[key])
        if array.shape != (length + 1, *expected.shape):
            raise _UnfitError(
                f"observation {key!r} is {list(array.shape)}, expected {[length + 1, *expected.shape]}: one more than "
                f"the {length} actions"
            )
        result[key] = lossless(array, np.dtype(expected.dtype), f"observation {key!r}")
        if not np.isfinite(result[key]).all():
            raise _UnfitError(f"observation {key!r} is not finite")
    return result


def _leaf(content: Any, key: str) -> Array | None:
    """The array of that key as ``machina demos export`` lays it down."""
    if key == OBSERVATION and not isinstance(content, Mapping | tuple):
        return np.asarray(content)
    for part in key.split("/"):
        if not isinstance(content, Mapping) or part not in content:
            return None
        content = content[part]
    return None if isinstance(content, Mapping | tuple) else np.asarray(content)


def _frames(stacks: Array) -> Array:
    """Every frame once, ``[T + stack, H, W]``, of stacks ``[T + 1, stack, H, W]`` that shift by one per step."""
    if (stacks[1:, :-1] != stacks[:-1, 1:]).any():
        raise _UnfitError("its image stacks do not shift by one frame per step")
    return np.concatenate([stacks[0, :-1], stacks[:, -1]])


def _arrived(name: str, values: Any, length: int, dtype: Any) -> Array:
    """``[T + 1]``: what arrived with each observation, nothing with the first."""
    array = np.asarray(values)
    if array.shape != (length,):
        raise _UnfitError(f"{name} are {list(array.shape)}, expected [{length}]: as many as the actions")
    return np.concatenate([np.zeros(1, dtype), array.astype(dtype)])
