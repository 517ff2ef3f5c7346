"""Edited files of a run: one line that names file and remedy, never a traceback, a hang or silent acceptance."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
import yaml
from commands import SMALL_NET, TINY
from edits import (
    DEEP,
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

from machina.checkpoint import RunDirectory
from machina.cli.main import main
from machina.errors import UserError

HANGS_S = 60
GAMES = ("--games", "2")
FEW = settings(max_examples=3, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
MANY = settings(FEW, max_examples=int(os.environ.get("FUZZ_EXAMPLES", "500")), derandomize=False)
"""Other edits at every call; a failure prints what repeats it."""


class Outcome(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


@contextlib.contextmanager
def deadline() -> Iterator[None]:
    """A command that hangs fails."""

    def hangs(*_: object) -> None:
        raise AssertionError(f"no answer in {HANGS_S} s")

    former = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(HANGS_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


def run(*arguments: str | Path) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    with deadline(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Outcome(code, out.getvalue(), err.getvalue())


def train(folder: Path, *arguments: str) -> Path:
    done = run("train", *arguments, *TINY, "--runs-dir", folder, "--log-seconds", "1e-9")
    assert done.code == 0, done
    return folder / arguments[arguments.index("--name") + 1]


class Originals(NamedTuple):
    """Good runs and where their edited copies go."""

    plain: Path
    """Of 40 updates, with evaluations; may learn 2 more."""
    other: Path
    """The same with another seed."""
    league: Path
    copies: Path


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Originals:
    folder = tmp_path_factory.mktemp("runs")
    often = ("--total-frames", "200", "--checkpoint-minutes", "1e-9", "--eval-every", "80", "--eval-episodes", "2")
    catch = ("impala", "catch", *SMALL_NET, "--envs-per-task", "4", *often)
    plain = train(folder, *catch, "--name", "plain")
    train(folder, *catch, "--seed", "2", "--name", "other")
    batch = ("--config", "defaults", "--torso", "mlp", "--hidden-sizes", "8", "--minibatches", "2", "--epochs", "1")
    schedule = ("--snapshot-updates", "4", "--rating-games", "2", "--total-frames", "200", "--envs-per-task", "4")
    game = ("ppo", "connect_four", *batch, *schedule, "--checkpoint-minutes", "1e-9")
    league = train(folder, *game, "--name", "league")
    for each in (plain, league):  # something to go on for
        config = read_yaml(each / "config.yaml")
        config["total_frames"] += 40
        (each / "config.yaml").write_text(yaml.safe_dump(config))
    return Originals(plain, folder / "other", league, tmp_path_factory.mktemp("copies"))


@contextlib.contextmanager
def edited_copy(original: Path, copies: Path) -> Iterator[Path]:
    """A copy to edit, gone afterwards."""
    copy = copies / original.name
    shutil.copytree(original, copy)
    try:
        yield copy
    finally:
        shutil.rmtree(copies / original.name)


def newest(path: Path) -> Path:
    return sorted(each for each in (path / "checkpoints").iterdir() if each.is_dir())[-1]


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
        assert "passed over" in done.err, f"accepted in silence: {shown}"


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
            compared = command[0] != "inspect"  # which is told of no run that the checkpoint would have to fit
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
            must_refuse = name not in ("scale.json", "metrics.jsonl") and of_another_shape(before, after)
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
        for command in (("resume", path), ("match", f"{path}@{which}", "random", *GAMES)):
            check(command, f"{file.name}: {what}", must_refuse=not same)


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


REMOVED = object()


def edit_state(**changes: Any) -> Callable[[Path, Originals], None]:
    """Values of the state laid over, section by section."""

    def edit(checkpoint: Path, _: Originals) -> None:
        state = json.loads((checkpoint / "state.json").read_text())
        for name, change in changes.items():
            state[name] = {**state[name], **change} if isinstance(change, dict) else change
            if isinstance(change, dict):
                state[name] = {key: value for key, value in state[name].items() if value is not REMOVED}
        write_json(checkpoint / "state.json", state)
        refit(checkpoint)

    return edit


def edit_tensors(stem: str, how: str, tensors_too: bool) -> Callable[[Path, Originals], None]:
    def edit(checkpoint: Path, _: Originals) -> None:
        group = safetensors.torch.load_file(checkpoint / f"{stem}.safetensors")
        TENSOR_EDITS[how](group, sorted(group)[0])
        write_tensors(checkpoint, stem, group)
        refit(checkpoint, tensors_too)

    return edit


def take_from_another(name: str) -> Callable[[Path, Originals], None]:
    def edit(checkpoint: Path, originals: Originals) -> None:
        shutil.copy(newest(originals.other) / name, checkpoint / name)
        refit(checkpoint)

    return edit


def nest_state(checkpoint: Path, _: Originals) -> None:
    (checkpoint / "state.json").write_text(DEEP)
    refit(checkpoint)


ALL = ("eval", "resume", "inspect")
REFUSED: list[tuple[str, Callable[[Path, Originals], None], tuple[str, ...], str]] = [
    ("weights of another run", take_from_another("model.safetensors"), ALL, "is of another checkpoint"),
    ("optimizer of another run", take_from_another("optimizer.safetensors"), ALL, "is of another checkpoint"),
    ("state of another run", take_from_another("state.json"), ALL, "is of another checkpoint"),
    ("NaN weights", edit_tensors("model", "NaN", True), ALL, "numbers that are not finite"),
    ("emptied optimizer", edit_tensors("optimizer", "emptied", False), ALL, "is absent, it was float32"),
    ("emptied optimizer, listed", edit_tensors("optimizer", "emptied", True), ("resume",), "optimizer's state of"),
    ("wider weights", edit_tensors("model", "a row more", True), ("eval", "resume"), "this network needs"),
    ("a weight too many", edit_tensors("model", "added", True), ("eval", "resume"), "has nothing called 'surplus'"),
    ("an array of nobody", edit_tensors("plane", "added", True), ALL, "holds 'surplus', which is of no group"),
    (
        "wrong protocol",
        edit_state(protocol={"sticky_actions": 0.5}),
        ("eval", "resume"),
        "the protocol's sticky_actions",
    ),
    ("another run's name", edit_state(identity={"run": "mine"}), ("eval", "resume"), "the run's name is 'mine'"),
    ("another algorithm", edit_state(identity={"algorithm": "ppo"}), ("eval", "resume"), "algorithm is 'ppo'"),
    ("another network", edit_state(identity={"network": {}}), ("eval", "resume"), "network.torso is None"),
    ("no updates", edit_state(learner={}, progress={"updates": 3}), ALL, "learner.updates=10 is more than"),
    (
        "text for a count",
        edit_state(progress={"updates": "10"}),
        ALL,
        "progress.updates='10': input should be",
    ),
    ("a counter less", edit_state(progress={"faults": REMOVED}), ALL, "missing key 'progress.faults'"),
    ("progress as a list", edit_state(progress=[]), ALL, "progress"),
    ("more tasks", edit_state(episodes={"counts": [1, 2]}), ALL, "episodes.counts are of 2 tasks, episodes.tasks of 1"),
    ("unknown key", edit_state(surplus=1), ALL, "unknown key 'surplus'"),
    ("deep nesting", nest_state, ALL, "RecursionError"),
]


@pytest.mark.parametrize(
    ("edit", "commands", "expected"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_what_must_not_be_accepted(
    edit: Callable[[Path, Originals], None], commands: tuple[str, ...], expected: str, originals: Originals
) -> None:
    """In one line that says what is wrong; an older good checkpoint is used where the newest is damaged."""
    with edited_copy(originals.plain, originals.copies) as path:
        edit(newest(path), originals)
        for command in commands:
            done = run(command, path, *(("--episodes", "1") if command == "eval" else ()))
            assert expected in done.err, done
            assert "state.json" in done.err or str(newest(path)) in done.err or "checkpoint: " in done.err
            assert len(done.err.splitlines()) == 1, done.err
            assert done.code == 2 or "passed over" in done.err
            if done.code == 0:
                break  # it went on, and has a newer one now


def edit_config(path: Path, **changes: Any) -> None:
    file = path / "config.yaml"
    file.write_text(yaml.safe_dump({**read_yaml(file), **changes}))


def test_a_configuration_of_other_tasks_is_refused(originals: Originals) -> None:
    games = ("pong,breakout", "--frame-cap", "40", "--envs-per-task", "2", "--filters", "4", "4", "4", *SMALL_NET)
    path = train(originals.copies, "impala", *games, "--total-frames", "160", "--name", "games")
    edit_config(path, environment="pong,seaquest", total_frames=1000)
    for command in ("eval", "resume", "watch"):
        done = run(command, path)
        assert done.code == 2
        assert len(done.err.splitlines()) == 1
        assert "environment is 'pong,breakout', by the run's config.yaml 'pong,seaquest'" in done.err


def test_other_learning_options_are_accepted(originals: Originals) -> None:
    with edited_copy(originals.plain, originals.copies) as path:
        algo = {**read_yaml(path / "config.yaml")["algo"], "learning_rate": 1e-5, "entropy_cost": 0.5}
        edit_config(path, algo=algo, seed=7, total_frames=300, minutes=1.0, keep_checkpoints=1)
        assert run("resume", path).code == 0
        assert newest(path).name == f"{300:012d}"


def test_a_damaged_request_is_told_and_the_run_goes_on(originals: Originals) -> None:
    with edited_copy(originals.plain, originals.copies) as path:
        directory = RunDirectory.open(path)
        (path / "scale.json").write_text('{"actors": "many"}')
        with pytest.raises(UserError, match=r"scale\.json' was edited or truncated: actors='many'.*machina scale"):
            directory.take_request()
        assert directory.take_request() is None


def test_the_name_of_the_best_checkpoint(originals: Originals) -> None:
    with edited_copy(originals.plain, originals.copies) as path:
        (path / "checkpoints" / "best.json").write_text('{"step": 80, "score": NaN}')
        for command in (("eval", path, "--best"), ("resume", path)):
            done = run(*command)
            assert done.code == 2
            assert "best.json' was edited or truncated: score=nan" in done.err
