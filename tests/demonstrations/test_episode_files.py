"""Files of recorded episodes: what is read is what was written, and what is damaged is refused by name."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_episodes import PLAIN, STACKED, header_of, played, write

from machina.demonstrations import RecordedEpisode, Who, check_suits, load_set, write_episode
from machina.demonstrations.container import ContainerError, mapped, packed, read_header, verify
from machina.errors import UserError
from machina.specs import EnvSpec
from machina.types import OBSERVATION, Array


def read_by_hand(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """As docs/demonstrations.md says, with nothing of ours."""
    raw = path.read_bytes()
    magic, version, length = struct.unpack("<8sII", raw[:16])
    assert (magic, version) == (b"MACHINA\x1a", 1)
    header = raw[64 : 64 + length]
    assert hashlib.sha256(header).digest() == raw[16:48]
    first = (64 + length + 63) // 64 * 64
    content = json.loads(header)
    arrays = {}
    for row in content["arrays"]:
        assert (first + row["offset"]) % 64 == 0
        array = np.frombuffer(raw, row["dtype"], int(np.prod(row["shape"])), first + row["offset"])
        assert hashlib.sha256(array.tobytes()).hexdigest() == row["sha256"]
        arrays[row["name"]] = array.reshape(row["shape"])
    return content["content"], arrays


@pytest.mark.parametrize("spec", [PLAIN, STACKED], ids=["plain", "stacked"])
def test_what_is_read_is_what_was_played(spec: EnvSpec, tmp_path: Path) -> None:
    recorder, entries, actions, _ = played(spec, 45, pictures=True)
    path = write_episode(tmp_path, header_of(recorder), recorder.arrays())
    episode = RecordedEpisode.open(path)
    arrays = episode.arrays()
    content, by_hand = read_by_hand(path)
    assert arrays.keys() == by_hand.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, by_hand[name], strict=True)
        assert not array.flags.writeable
    for key in spec.observation:
        expected = np.concatenate([each.observation[key] for each in entries])
        stored = arrays[f"observation/{key}"]
        if spec.stores_frames_once:
            stored = np.stack([stored[t : t + spec.frame_stack] for t in range(len(entries))])
        np.testing.assert_array_equal(stored, expected, strict=True)
    np.testing.assert_array_equal(arrays["action"], np.concatenate(actions), strict=True)
    for name in ("reward", "terminated", "truncated", "life_lost"):
        np.testing.assert_array_equal(arrays[name], np.concatenate([getattr(each, name) for each in entries]))
    assert arrays["who"].tolist() == [step % 3 for step in range(45)]
    assert episode.header.spec == spec
    assert episode.header.seed == 3
    assert episode.header.players == {"person": "person", "policy": "runs/one", "script": "random"}
    assert content["length"] == 45
    assert content["episode_return"] == pytest.approx(sum(float(each.reward[0]) for each in entries))


def test_pictures_come_back_bit_for_bit(tmp_path: Path) -> None:
    recorder, _, _, pictures = played(STACKED, 45, pictures=True)
    episode = RecordedEpisode.open(write_episode(tmp_path, header_of(recorder), recorder.arrays()))
    np.testing.assert_array_equal(np.stack(list(episode.pictures())), np.stack(pictures), strict=True)


BASE = np.arange(24, dtype=np.int32).reshape(4, 6)


@pytest.mark.parametrize(
    "array",
    [
        BASE.T,
        np.asfortranarray(BASE),
        BASE[:, ::2],
        np.moveaxis(np.arange(60.0).reshape(3, 4, 5), 0, -1),
        BASE[::-1].astype(">i4"),
        np.broadcast_to(np.float32(2), (3, 4)),
        np.empty((0, 5), np.uint8),
        np.array(True),
    ],
    ids=["transpose", "fortran", "every second column", "moved axis", "big-endian", "broadcast", "empty", "one number"],
)
def test_arrays_of_any_layout_keep_their_values(array: Array, tmp_path: Path) -> None:
    """safetensors writes such arrays scrambled, without an error."""
    path = tmp_path / "x"
    path.write_bytes(packed({}, {"before": np.ones(3, np.uint8), "x": array}))
    container = read_header(path)
    verify(path, container)
    read = mapped(path, container)["x"]
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype.newbyteorder("<")


def test_objects_are_not_stored() -> None:
    with pytest.raises(ValueError, match="array 'x' is of object"):
        packed({}, {"x": np.array([{}])})


def changed(path: Path, position: int, new: bytes = b"?") -> None:
    raw = bytearray(path.read_bytes())
    assert raw[position : position + len(new)] != new
    raw[position : position + len(new)] = new
    path.write_bytes(raw)


def last_array_position(path: Path) -> int:
    return path.stat().st_size - 1


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_text("hello"), "no recorded episode of Machina"),
        (lambda path: path.write_bytes(b""), "no recorded episode of Machina"),
        (lambda path: path.write_bytes(path.read_bytes()[:30]), "cut off within its first 64 bytes"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "it was cut off or added to"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "it was cut off or added to"),
        (lambda path: changed(path, 8, b"\2"), "written in version 2 of the format, this Machina reads version 1"),
        (lambda path: changed(path, 15, b"\xff"), "header damaged: its checksum is wrong"),
        (lambda path: changed(path, 80), "header damaged: its checksum is wrong"),
        (lambda path: changed(path, last_array_position(path)), "array 'life_lost' is damaged: its checksum is wrong"),
    ],
    ids=["foreign", "empty", "short prefix", "cut", "longer", "version", "header length", "header", "array"],
)
def test_a_bad_file_is_refused_by_name_and_the_others_load(damage: Any, reason: str, tmp_path: Path) -> None:
    paths = [write(tmp_path, PLAIN, 20, seed) for seed in range(3)]
    damage(paths[1])
    found = load_set(tmp_path)
    assert [episode.path for episode in found.episodes] == [paths[0], paths[2]]
    assert [episode.index for episode in found.episodes] == [0, 1]
    assert found.seeds == {0, 2}
    ((file, said),) = found.refusals
    assert file == paths[1].name
    assert said.endswith(reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda file: file[0].pop("length"), "header: missing key 'length'"),
        (lambda file: file[0].update(length=21), "array 'observation/observation' is float32[21, 3], expe"),
        (lambda file: file[1].pop("who"), "array 'who' is missing, expected uint8[20]"),
        (lambda file: file[0].update(picture_shape=[7, 9, 3]), "pictures are missing, or are not 21"),
    ],
    ids=["no length", "another length", "no array", "no pictures"],
)
def test_a_header_that_does_not_fit_its_arrays_is_refused(change: Any, reason: str, tmp_path: Path) -> None:
    content, arrays = read_by_hand(write(tmp_path, PLAIN, 20))
    change((content, arrays))
    other = tmp_path / "other"
    other.write_bytes(packed(content, arrays))
    with pytest.raises(ContainerError) as caught:
        RecordedEpisode.open(other)
    assert str(caught.value).startswith(reason)


def test_dtypes_of_objects_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    header = {"content": {}, "arrays": [{"name": "x", "dtype": "O", "shape": [1], "offset": 0, "sha256": ""}]}
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<8sII32s16x", b"MACHINA\x1a", 1, len(raw), hashlib.sha256(raw).digest()) + raw)
    with pytest.raises(ContainerError, match=r"array 'x' can't be O\[1\]"):
        read_header(path)


def test_an_episode_that_its_header_does_not_describe_is_not_written(tmp_path: Path) -> None:
    recorder = played(PLAIN, 5).recorder
    arrays = recorder.arrays()
    arrays["reward"] = arrays["reward"][:-1]
    with pytest.raises(ValueError, match=r"array 'reward' is float32\[5\], expected float32\[6\]"):
        write_episode(tmp_path, header_of(recorder), arrays)
    assert list(tmp_path.iterdir()) == []


def test_numbers_go_on_after_the_last_and_nothing_is_overwritten(tmp_path: Path) -> None:
    assert [write(tmp_path, PLAIN, 2).name for _ in range(2)] == ["000000.episode", "000001.episode"]
    (tmp_path / "000000.episode").unlink()
    assert write(tmp_path, PLAIN, 2).name == "000002.episode"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000001.episode", "000002.episode"]


def test_folders_without_episodes_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"can't be read: No such file or directory; name the folder given to machina"):
        load_set(tmp_path / "absent")
    with pytest.raises(UserError, match=r"hold no good episode; make some with machina record"):
        load_set(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"no good episode; notes.txt: no recorded episode of Machina; make some"):
        load_set(tmp_path)


def changed_spec(**changes: Any) -> EnvSpec:
    return EnvSpec.model_validate({**STACKED.model_dump(), **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "pong"}, "the environment of 000000.episode is stacked, here it is pong"),
        (
            {"protocol": {**STACKED.protocol, "sticky_actions": 0.0}},
            "sticky_actions (protocol) of 000000.episode is 0.25, here it is 0.0",
        ),
        ({"protocol": {}}, "sticky_actions (protocol) of 000000.episode is 0.25, here it is not set"),
        (
            {"action": {"kind": "discrete", "choices": (18,)}},
            "the set of actions of 000000.episode is 3 choices, here it is 18 choices",
        ),
        (
            {"observation": {OBSERVATION: {"shape": (4, 6, 6), "dtype": "uint8"}}},
            "the observation 'observation' of 000000.episode is uint8[4, 6, 5], here it is uint8[4, 6, 6]",
        ),
        ({"frame_stack": 1}, "frame_stack of 000000.episode is 4, here it is 1"),
    ],
    ids=["environment", "protocol", "no protocol", "actions", "observation", "stack"],
)
def test_demonstrations_of_another_environment_are_refused(changes: Any, said: str, tmp_path: Path) -> None:
    write(tmp_path, STACKED, 4)
    demonstrations = load_set(tmp_path)
    check_suits(demonstrations, changed_spec())
    with pytest.raises(UserError) as caught:
        check_suits(demonstrations, changed_spec(**changes))
    assert str(caught.value) == (
        f"demonstrations '{tmp_path}': {said}; record them again, or use the options that they were recorded with"
    )


def test_only_those_who_acted_are_named() -> None:
    recorder = played(PLAIN, 2).recorder
    assert recorder.header({Who.PERSON: "me", Who.POLICY: "it", Who.SCRIPT: "other"}, 30).players == {
        "person": "me",
        "policy": "it",
    }
