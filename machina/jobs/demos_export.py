"""Exporting recorded episodes as a Minari data set."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from machina.actions import native_actions
from machina.checkpoint.files import as_file_name
from machina.demonstrations import RecordedEpisode, load_set
from machina.errors import UserError
from machina.specs import ActionSpec, ArraySpec, EnvSpec
from machina.types import OBSERVATION, Array

OWN = "machina"
"""What Minari has no place for: the group of the infos that holds it, and the attribute of an episode."""

DATASETS_PATH = "MINARI_DATASETS_PATH"
"""Minari's own variable: the folder of all data sets, by default one in the home."""


class Exported(NamedTuple):
    """A data set that was written."""

    dataset_id: str
    folder: Path
    episodes: int
    refused: tuple[str, ...]
    """Lines about files of the set that are not episodes."""


def export_demos(demos: Path, out: Path) -> Exported:
    """Write a set as one Minari data set, without loss: images are not made JPEGs.

    Observations are the arrays that a policy sees, stacks as a whole. Actions are those that the environment takes;
    the infos of each step hold, under ``machina``, the action as the policy gives it, who acted and lost lives; the
    attribute ``machina`` of each episode is its header. Pictures for play-back are left out.

    Args:
        demos: folder of the set, whose episodes are all of one environment.
        out: folder that becomes the root of Minari's data sets; made where it is not there.

    Raises:
        UserError: no such set, episodes of several environments, the data set is there already, or Minari is absent.
    """
    minari = needs_minari()
    demonstrations = load_set(demos)
    spec = demonstrations.episodes[0].header.spec
    if other := next((each for each in demonstrations.episodes if each.header.spec != spec), None):
        raise UserError(
            f"demonstrations '{demos}': {other.path.name} was not recorded as {demonstrations.episodes[0].path.name}; "
            "a data set has one environment and protocol: export them from folders of their own"
        )
    dataset_id = (
        f"machina/{as_file_name(spec.name.rpartition(':')[2]).rpartition('-v')[0] or as_file_name(spec.name)}-v0"
    )
    folder = out / dataset_id
    if folder.exists():
        raise UserError(f"out='{out}': {dataset_id} is there already; remove it or name another folder")
    out.mkdir(parents=True, exist_ok=True)
    before = os.environ.get(DATASETS_PATH)
    os.environ[DATASETS_PATH] = str(out.absolute())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about an author, a link and an e-mail address
            data_set = minari.create_dataset_from_buffers(
                dataset_id,
                _buffers(demonstrations.episodes),
                observation_space=_observation_space(spec),
                action_space=_action_space(spec.action),
                description=f"{spec.name}, recorded with Machina; protocol: {spec.protocol}",
                data_format="hdf5",
                jpeg_encoding=False,
            )
            headers = [each.header.model_copy(update={"picture_shape": None}) for each in demonstrations.episodes]
            data_set.storage.update_episode_metadata(
                {OWN: json.dumps(header.model_dump(mode="json"))} for header in headers
            )
    finally:
        if before is None:
            del os.environ[DATASETS_PATH]
        else:
            os.environ[DATASETS_PATH] = before
    refused = tuple(f"refused {file}: {reason}" for file, reason in demonstrations.refusals)
    return Exported(dataset_id, folder, len(demonstrations.episodes), refused)


def needs_minari() -> Any:
    """The package ``minari``.

    Raises:
        UserError: it, or h5py, is not installed.
    """
    try:
        import h5py  # noqa: F401 (without it Minari fails later, when a file is opened)
        import minari
    except ImportError as error:
        raise UserError(
            f"demos import and export need Minari and h5py ({error}); pip install 'machina-trainer[demos]'"
        ) from error
    return minari


def _buffers(episodes: tuple[RecordedEpisode, ...]) -> Iterator[Any]:
    """One at a time: Minari takes any iterable, and the set need not lie in memory."""
    from minari.data_collector import EpisodeBuffer

    for number, episode in enumerate(episodes):
        header, arrays = episode.header, episode.arrays()
        spec, length = header.spec, header.length
        observations = {key: _whole(spec, key, arrays[f"observation/{key}"], length) for key in spec.observation}
        yield EpisodeBuffer(
            id=number,
            seed=header.seed,
            observations=observations[OBSERVATION] if list(observations) == [OBSERVATION] else _nested(observations),
            actions=native_actions(spec.action, arrays["action"]),
            rewards=arrays["reward"][1:],
            terminations=arrays["terminated"][1:],
            truncations=arrays["truncated"][1:],
            infos={
                OWN: {
                    "action": np.array(arrays["action"]),
                    "who": np.array(arrays["who"]),
                    "life_lost": np.array(arrays["life_lost"]),
                }
            },
        )


def _whole(spec: EnvSpec, key: str, array: Array, length: int) -> Array:
    """``[T + 1, ...]``: stacks are made of frames that were stored once."""
    if key != OBSERVATION or not spec.stores_frames_once:
        return array
    windows = np.lib.stride_tricks.sliding_window_view(array, spec.frame_stack, axis=0)
    return np.ascontiguousarray(np.moveaxis(windows, -1, 1)[: length + 1])


def _nested(observations: Mapping[str, Any]) -> dict[str, Any]:
    """``camera/left`` as a key of a key: a slash is HDF5's separator."""
    result: dict[str, Any] = {}
    for path, array in observations.items():
        *outer, last = path.split("/")
        inner = result
        for key in outer:
            inner = inner.setdefault(key, {})
        inner[last] = array
    return result


def _observation_space(spec: EnvSpec) -> spaces.Space[Any]:
    boxes: dict[str, spaces.Space[Any]] = {key: _box(each) for key, each in spec.observation.items()}
    return boxes[OBSERVATION] if list(boxes) == [OBSERVATION] else _dict_space(_nested(boxes))


def _dict_space(nested: Mapping[str, Any]) -> spaces.Dict:
    return spaces.Dict({key: _dict_space(each) if isinstance(each, dict) else each for key, each in nested.items()})


def _box(array: ArraySpec) -> spaces.Space[Any]:
    dtype = np.dtype(array.dtype)
    if dtype == np.bool_:
        return spaces.MultiBinary(array.shape)
    limits = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    low, high = (
        limit if stated is None else stated for limit, stated in zip(limits, (array.low, array.high), strict=True)
    )
    return spaces.Box(low, high, array.shape, dtype.type)


def _action_space(action: ActionSpec) -> spaces.Space[Any]:
    if action.low:
        dtype = np.dtype(action.number_dtype).type
        return spaces.Box(np.array(action.low, dtype), np.array(action.high, dtype), dtype=dtype)
    if action.kind == "discrete":
        return spaces.Discrete(action.choices[0])
    return spaces.MultiDiscrete(list(action.choices))
