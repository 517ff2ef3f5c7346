"""Edits of a run's files, as another program, a bad disk or a curious user leaves them; checksums are made to fit."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from hypothesis import strategies as st

DEEP = "[" * 100_000
"""Deeper than any parser goes."""

OTHER_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 7, 1.5, 2**31, 2**63, 10**40, 1e308, -1e-320, float("nan"), float("inf")),
    *("", "7", "x", "[/b]", "line\nline", "\ud800", "../../x", [], {}, [[]], {"x": 1}, [None, "x", 3]),
)

Node = tuple[str | int, ...]


def nodes(value: Any, path: Node = ()) -> Iterator[Node]:
    """The way to every value inside."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from nodes(inner, (*path, key))


def at(value: Any, path: Iterable[Any]) -> Any:
    for key in path:
        value = value[key]
    return value


def kind(value: Any) -> str:
    """What a typed model distinguishes; an integer is a number, too."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int | float):
        return "number"
    return type(value).__name__


@st.composite
def edited_values(draw: st.DrawFn, value: Any) -> tuple[Any, str]:
    """A changed copy of an object of named values, and what was done."""
    edited = copy.deepcopy(value)
    paths = [path for path in nodes(edited) if path]
    path = draw(st.sampled_from(paths))
    parent, key = at(edited, path[:-1]), path[-1]
    how = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "wrap", "swap"]))
    if how == "remove":
        del parent[key]
        return edited, f"removed {path}"
    if how == "add" and isinstance(parent, dict):
        parent["surplus"] = draw(st.sampled_from(OTHER_VALUES))
        return edited, f"added surplus next to {path}"
    old, new = parent[key], draw(st.sampled_from(OTHER_VALUES))
    if how == "wrap":
        new = [old]
    elif how == "swap":
        new = copy.deepcopy(at(edited, draw(st.sampled_from(paths))))
    parent[key] = new
    return edited, f"{path}: {new!r:.60} for {old!r:.60}"


@st.composite
def edited_bytes(draw: st.DrawFn, content: bytes) -> tuple[bytes, str]:
    """Content that was cut, overwritten or replaced; never the same."""
    how = draw(st.sampled_from(["cut", "flip", "noise", "deep", "no text", "front"]))
    place = draw(st.integers(0, max(0, len(content) - 1)))
    match how:
        case "cut":
            return content[:place], f"cut to {place} bytes"
        case "front":
            return content[place + 1 :], f"the first {place + 1} bytes are gone"
        case "flip":
            flipped = bytes([content[place] ^ draw(st.integers(1, 255))]) if content else b"?"
            return content[:place] + flipped + content[place + 1 :], f"byte {place} is another"
        case "noise":
            return draw(st.binary(max_size=60).filter(lambda noise: noise != content)), "noise"
        case "deep":
            return DEEP.encode(), "a deep list"
    return b"\xff\xfe" + content, "no text"


TENSOR_EDITS: dict[str, Callable[[dict[str, torch.Tensor], str], None]] = {
    "removed": dict.__delitem__,
    "renamed": lambda group, name: group.update({f"{name}.x": group.pop(name)}),
    "added": lambda group, name: group.update({"surplus": group[name].clone()}),
    "a row more": lambda group, name: group.update({name: torch.cat([group[name].reshape(-1), torch.ones(1)])}),
    "another rank": lambda group, name: group.update({name: group[name].unsqueeze(0)}),
    "doubles": lambda group, name: group.update({name: group[name].to(torch.complex64)}),
    "NaN": lambda group, name: group.update({name: torch.full(group[name].shape, torch.nan)}),
    "infinite": lambda group, name: group.update({name: torch.full(group[name].shape, -torch.inf)}),
    "emptied": lambda group, _: group.clear(),
}


def write_json(file: Path, values: Any) -> None:
    file.write_text(json.dumps(values))


def refit(checkpoint: Path, tensors_too: bool = False) -> None:
    """Make the manifest's sizes and checksums fit the files, and on request its list of tensors and its mark."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    for name in list(manifest["files"]):
        content = (checkpoint / name).read_bytes()
        manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    if tensors_too:
        for file in checkpoint.glob("*.safetensors"):
            manifest["tensors"][file.stem] = {
                name: f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
                for name, tensor in safetensors.torch.load_file(file).items()
            }
    write_json(checkpoint / "manifest.json", manifest)


def mark(checkpoint: Path) -> str:
    return str(json.loads((checkpoint / "manifest.json").read_text())["checkpoint"])


def write_tensors(checkpoint: Path, stem: str, group: dict[str, torch.Tensor], marked: bool = True) -> None:
    """A tensor file with the checkpoint's own mark, or without one."""
    metadata = {"checkpoint": mark(checkpoint)} if marked else None
    safetensors.torch.save_file(
        {name: tensor.contiguous() for name, tensor in group.items()}, checkpoint / f"{stem}.safetensors", metadata
    )


def read_yaml(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(file.read_text())
    return content
