"""Edits of a run's files that must not be accepted, each with the words that say what is wrong; and some that are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import yaml
from commands import SMALL_NET
from edited_runs import Originals, edited_copy, newest, run, train, trained_originals
from edits import DEEP, TENSOR_EDITS, read_yaml, refit, write_json, write_tensors

from machina.checkpoint import RunDirectory
from machina.errors import UserError


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Originals:
    return trained_originals(tmp_path_factory.mktemp("runs"))


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


def give_another_format(checkpoint: Path, _: Originals) -> None:
    """That of runs whose unrolls kept logits in a field of their own."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    write_json(checkpoint / "manifest.json", {**manifest, "format_version": 2})


def without_observation_divisor(checkpoint: Path, _: Originals) -> None:
    state = json.loads((checkpoint / "state.json").read_text())
    assert state["identity"]["network"].pop("observation_divisor") is None
    write_json(checkpoint / "state.json", state)
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
    ("another network", edit_state(identity={"network": {}}), ("eval", "resume"), "network.torso is absent"),
    (
        "a part of the network that is None",
        without_observation_divisor,
        ("eval", "resume"),
        "network.observation_divisor is absent, by the run's config.yaml None",
    ),
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
    ("an older format", give_another_format, ALL, "machina that wrote it, or train again"),
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
                break  # it continued, and has a newer one now


def edit_config(path: Path, **changes: Any) -> None:
    file = path / "config.yaml"
    file.write_text(yaml.safe_dump({**read_yaml(file), **changes}))


@pytest.mark.parametrize(("player", "games"), [("surplus", 3), ("surplus", 0), ("u000004", 10**6)])
def test_games_that_wins_and_draws_do_not_tell_of(player: str, games: int, originals: Originals) -> None:
    with edited_copy(originals.league, originals.copies) as path:
        file = newest(path) / "state.json"
        state = json.loads(file.read_text())
        assert "u000004" in state["league"]["ratings"]["games"]
        state["league"]["ratings"]["games"][player] = games
        write_json(file, state)
        refit(file.parent)
        done = run("inspect", file.parent)
        assert done.code == 2
        assert f"league.ratings.games: {games} of {player!r}, wins and draws tell of" in done.err


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


def test_a_damaged_request_is_reported_and_the_run_continues(originals: Originals) -> None:
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
