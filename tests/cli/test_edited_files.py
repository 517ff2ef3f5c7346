"""Edited files of a run: one line that names file and remedy, never a traceback, a hang or silent acceptance."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from edited_runs import Originals, edited_copy, newest, run, trained_originals
from edits import (
    TENSOR_EDITS,
    edited_bytes,
    edited_values,
    kind,
    read_yaml,
    refit,
    write_json,
    write_tensors,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

GAMES = ("--games", "2")
FEW = settings(max_examples=3, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
MANY = settings(FEW, max_examples=int(os.environ.get("FUZZ_EXAMPLES", "500")), derandomize=False)
"""Other edits at every call; a failure prints what repeats it."""


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Originals:
    return trained_originals(tmp_path_factory.mktemp("runs"))


def check(arguments: tuple[str | Path, ...], what: str, must_refuse: bool) -> None:
    """The command refuses in one line, or passes the newest checkpoint over, or the edit is legal."""
    done = run(*arguments)
    shown = f"{what}\n{' '.join(map(str, arguments))} -> {done.code}\n{done.out[-2000:]}\n{done.err[-2000:]}"
    assert "Traceback" not in done.out + done.err, shown
    assert done.code in (0, 2), shown
    lines = done.err.splitlines()
    if done.code == 2:
        warnings = [line for line in lines[:-1] if not line.endswith("passed over")]
        assert lines, shown
        assert not warnings, shown
        assert lines[-1].startswith("machina: "), shown
    elif must_refuse:
        assert "passed over" in done.err, f"accepted silently: {shown}"


# One file each; every edit is followed by every command that reads the file.


def acting(path: Path) -> list[tuple[str | Path, ...]]:
    return [("eval", path, "--episodes", "1"), ("inspect", path), ("resume", path)]


def check_state(originals: Originals, data: st.DataObject) -> None:
    original = data.draw(st.sampled_from([originals.plain, originals.league]))
    with edited_copy(original, originals.copies) as path:
        file = newest(path) / "state.json"
        before = json.loads(file.read_text())
        after, what = data.draw(edited_values(before))
        write_json(file, after)
        refit(file.parent)
        for command in acting(path):
            compared = command[0] != "inspect"  # which knows of no run that the checkpoint would have to fit
            check(command, what, must_refuse=of_another_shape(plain(before, compared), plain(after, compared)))


def check_manifest(originals: Originals, data: st.DataObject) -> None:
    with edited_copy(originals.plain, originals.copies) as path:
        file = newest(path) / "manifest.json"
        before = json.loads(file.read_text())
        after, what = data.draw(edited_values(before))
        write_json(file, after)
        for command in acting(path):
            check(command, what, must_refuse=after != before)


def check_tensors(originals: Originals, data: st.DataObject) -> None:
    original = data.draw(st.sampled_from([originals.plain, originals.league]))
    with edited_copy(original, originals.copies) as path:
        file = data.draw(st.sampled_from(sorted(newest(path).glob("*.safetensors"))))
        group = safetensors.torch.load_file(file)
        floats = [name for name, tensor in group.items() if tensor.is_floating_point() and tensor.numel()]
        name, how = data.draw(st.sampled_from(floats)), data.draw(st.sampled_from(sorted(TENSOR_EDITS)))
        TENSOR_EDITS[how](group, name)
        marked, listed = data.draw(st.booleans()), data.draw(st.booleans())
        write_tensors(file.parent, file.stem, group, marked)
        refit(file.parent, tensors_too=listed)
        what = f"{file.name}: {name} {how}, mark {marked}, list {listed}"
        read_by_all = file.stem == "model" or not (marked and listed)
        for command in acting(path):
            # One that fits in every way but the network's: who has no use for it can't know.
            check(command, what, must_refuse=read_by_all and not (command[0] == "inspect" and marked and listed))


def check_foreign_tensors(originals: Originals, data: st.DataObject) -> None:
    with edited_copy(originals.plain, originals.copies) as path:
        file = data.draw(st.sampled_from(sorted(newest(path).iterdir())))
        if file.name == "manifest.json":
            file = newest(path) / "model.safetensors"
        shutil.copy(newest(originals.other) / file.name, file)
        refit(newest(path))
        for command in acting(path):
            check(command, f"{file.name} of another run", must_refuse=True)


def check_bytes(originals: Originals, data: st.DataObject) -> None:
    original = data.draw(st.sampled_from([originals.plain, originals.league]))
    with edited_copy(original, originals.copies) as path:
        files = [file for file in sorted(newest(path).rglob("*")) if file.is_file()]
        file = data.draw(st.sampled_from(files))
        content, what = data.draw(edited_bytes(file.read_bytes()))
        file.write_bytes(content)
        fits = file.name != "manifest.json" and data.draw(st.booleans())
        if fits:
            refit(newest(path))
        for command in acting(path):
            check(command, f"{file.name}: {what}", must_refuse=not fits and file.name != "manifest.json")


def check_other_files(originals: Originals, data: st.DataObject) -> None:
    readers: dict[str, tuple[Path, list[tuple[str | Path, ...]]]] = {
        "checkpoints/best.json": (originals.plain, [("eval", "RUN", "--best", "--episodes", "1"), ("resume", "RUN")]),
        "status.json": (originals.plain, [("status", "RUN"), ("scale", "RUN", "--actors", "2")]),
        "scale.json": (originals.plain, [("resume", "RUN")]),
        "metrics.jsonl": (originals.plain, [("plot", "RUN"), ("resume", "RUN")]),
        "report/evaluation-000000000160.json": (originals.plain, [("plot", "RUN")]),
        "league/league.json": (
            originals.league,
            [("status", "RUN"), ("match", "RUN@u000004", "random", *GAMES)],
        ),
    }
    name = data.draw(st.sampled_from(sorted(readers)))
    original, commands = readers[name]
    with edited_copy(original, originals.copies) as path:
        file = path / name
        if name == "scale.json":
            write_json(file, {"actors": 2})
        content = file.read_bytes()
        lines = content.splitlines(keepends=True) if name.endswith("l") else [content]
        index = data.draw(st.integers(0, len(lines) - 1))
        must_refuse = False
        if data.draw(st.booleans()):
            before = json.loads(lines[index])
            after, what = data.draw(edited_values(before))
            lines[index] = json.dumps(after).encode() + (b"\n" if len(lines) > 1 else b"")
            must_refuse = name not in ("scale.json", "metrics.jsonl")
            must_refuse &= of_another_shape(without_empty_terms(before), without_empty_terms(after))
        else:
            lines[index], what = data.draw(edited_bytes(lines[index]))
        file.write_bytes(b"".join(lines))
        for command in commands:
            named = tuple(str(part).replace("RUN", str(path)) for part in command)
            check(named, f"{name}: {what}", must_refuse and command[0] != "scale")


def check_snapshots(originals: Originals, data: st.DataObject) -> None:
    with edited_copy(originals.league, originals.copies) as path:
        file = data.draw(st.sampled_from(sorted((path / "league" / "snapshots").iterdir())))
        if data.draw(st.booleans()):
            content, what = data.draw(edited_bytes(file.read_bytes()))
            file.write_bytes(content)
            same = same_tensors(file, originals.league / file.relative_to(path))
        else:
            group = safetensors.torch.load_file(file)
            what = data.draw(st.sampled_from(sorted(set(TENSOR_EDITS) - {"added"})))
            TENSOR_EDITS[what](group, "parameters")
            safetensors.torch.save_file(group, file)
            same = False
        which = file.name.partition("-")[0]
        check(("match", f"{path}@{which}", "random", *GAMES), f"{file.name}: {what}", must_refuse=not same)
        resumed = run("resume", path)
        assert resumed.code == 0, resumed
        assert "Traceback" not in resumed.out + resumed.err, resumed
        assert (f"continues without {which}" in resumed.out) == (not same), f"{file.name}: {what}: {resumed}"


def check_config(originals: Originals, data: st.DataObject) -> None:
    """Numbers stay of a size that a machine can do; how large an option may be is tested with the options."""
    with edited_copy(originals.plain, originals.copies) as path:
        file = path / "config.yaml"
        before = read_yaml(file)
        if data.draw(st.booleans()):
            after, what = data.draw(edited_values(before))
            if any(isinstance(value, int | float) and abs(value) > 1000 for value in leaves(after)):
                after, what = (
                    {**before, "environment": data.draw(st.sampled_from(["pong", "catch,signal", ""]))},
                    "other",
                )
            content = yaml.safe_dump(after, allow_unicode=True).encode(errors="replace")
        else:
            content, what = data.draw(edited_bytes(file.read_bytes()))
        file.write_bytes(content)
        for command in (("eval", path, "--episodes", "1"), ("plot", path), ("resume", path)):
            check(command, f"config.yaml: {what}", must_refuse=False)


CHECKS = [
    check_state,
    check_manifest,
    check_tensors,
    check_foreign_tensors,
    check_bytes,
    check_other_files,
    check_snapshots,
    check_config,
]


@pytest.mark.parametrize("checked", CHECKS, ids=lambda each: each.__name__.removeprefix("check_"))
def test_edited_files(checked: Callable[[Originals, st.DataObject], None], originals: Originals) -> None:
    FEW(given(st.data())(lambda data: checked(originals, data)))()


@pytest.mark.fuzz
@pytest.mark.timeout(0)
@pytest.mark.parametrize("checked", CHECKS, ids=lambda each: each.__name__.removeprefix("check_"))
def test_many_edited_files(checked: Callable[[Originals, st.DataObject], None], originals: Originals) -> None:
    MANY(given(st.data())(lambda data: checked(originals, data)))()


def plain(state: Any, compared: bool) -> Any:
    """A state without what only a comparison with the run's configuration finds wrong."""
    if compared or not isinstance(state.get("identity"), dict):
        return state
    identity = {key: None if key in ("network", "spec") else value for key, value in state["identity"].items()}
    return {**state, "identity": identity} | ({"protocol": None} if "protocol" in state else {})


def without_empty_terms(status: Any) -> Any:
    """Terms of the account are the buffer's: one of 0 may as well be absent."""
    if not isinstance(status, dict) or not isinstance(status.get("account"), dict):
        return status
    return {**status, "account": {name: count for name, count in status["account"].items() if count != 0}}


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    else:
        yield value


def of_another_shape(before: Any, after: Any) -> bool:
    """Whether an object has other keys, or a value of another kind, outside lists, whose length may be another."""
    if kind(before) != kind(after):
        # What may be absent, and flags and names among which one may stand for another.
        return not (before is None or after is None)
    if isinstance(before, dict):
        return before.keys() != after.keys() or any(of_another_shape(before[key], after[key]) for key in before)
    return False


def same_tensors(file: Path, other: Path) -> bool:
    try:
        one, two = (safetensors.torch.load(each.read_bytes())["parameters"] for each in (file, other))
    except Exception:
        return False
    return torch.equal(one, two)
