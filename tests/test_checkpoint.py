"""Checkpoints and run directories: what is written is read back, what is broken is refused and passed over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from machina.checkpoint import (
    Checkpoint,
    RunDirectory,
    inspect_checkpoint,
    latest_checkpoint,
    load_checkpoint,
    load_from,
    prune,
    save_checkpoint,
)
from machina.checkpoint.run_directory import RunExistsError
from machina.errors import UserError


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "runs", "pong-1", "seed: 1\n")


def save(run: RunDirectory, step: int, keep_last: int = 9) -> Path:
    tensors = {"model": {"weight": torch.full((40, 5), float(step))}, "optimizer": {"square": torch.ones(7)}}
    return run.save(step, tensors, {"updates": step // 10}, keep_last)


def steps(run: RunDirectory) -> list[int]:
    return sorted(int(path.name) for path in run.checkpoints.iterdir() if path.is_dir())


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_kind_of_tensor_comes_back(tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    parameter = torch.nn.Parameter(torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last))
    tensors: dict[str, torch.Tensor | np.ndarray] = {
        "transposed": base.transpose(0, 2),
        "shares_memory": base[1],
        "whole": base,
        "parameter": parameter,
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.empty(0, 4),
        "flags": torch.tensor([True, False]),
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "torch_stream": torch.get_rng_state(),
        "bytes": np.arange(9, dtype=np.uint8)[::-2],
        "array_scalar": np.asarray(np.int64(-5)),
        "array_flags": np.array([[True], [False]]),
    }
    saved = save_checkpoint(tmp_path, 12, {"model": tensors, "nothing": {}}, {})
    loaded = load_checkpoint(saved).tensors
    assert loaded["nothing"] == {}
    assert loaded["model"].keys() == tensors.keys()
    for name, value in tensors.items():
        expected = value.detach() if isinstance(value, torch.Tensor) else torch.from_numpy(value.copy())
        assert loaded["model"][name].dtype == expected.dtype, name
        assert torch.equal(loaded["model"][name], expected), name


def test_values_come_back_exactly(tmp_path: Path) -> None:
    stream = np.random.default_rng(7)
    values = {"stream": stream.bit_generator.state, "seconds": 0.1, "none": None, "nested": [[1, 2.5]], "text": "π"}
    loaded = load_checkpoint(save_checkpoint(tmp_path, 0, {}, values))
    assert loaded.values == values
    again = np.random.default_rng(0)
    again.bit_generator.state = loaded.values["stream"]
    assert again.random() == stream.random()


def test_inspect_lists_every_tensor(run: RunDirectory) -> None:
    rows = inspect_checkpoint(load_checkpoint(save(run, 10)))
    assert [tuple(row) for row in rows] == [
        ("model.safetensors", "weight", (40, 5), "float32", 800),
        ("optimizer.safetensors", "square", (7,), "float32", 28),
    ]


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def edit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize(
    ("damage", "word"),
    [(truncate, "truncated"), (edit, "changed"), (Path.unlink, ""), (lambda f: f.write_text(""), "")],
)
def test_a_damaged_file_is_named_and_the_last_good_checkpoint_used(
    run: RunDirectory, name: str, damage: object, word: str
) -> None:
    save(run, 10)
    save(run, 20)
    bad = save(run, 30)
    assert callable(damage)
    damage(bad / name)
    message = refusal(bad)
    assert name in message
    assert str(bad) in message
    if name != "manifest.json":
        assert word in message
    checkpoint, warnings = run.latest()
    assert checkpoint.step == 20
    assert torch.equal(checkpoint.tensors["model"]["weight"], torch.full((40, 5), 20.0))
    assert len(warnings) == 1
    assert str(bad) in warnings[0]


def test_a_manifest_that_leads_elsewhere_or_is_newer_is_refused(run: RunDirectory) -> None:
    file = save(run, 10) / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["files"]["../../config.yaml"] = manifest["files"]["state.json"]
    file.write_text(json.dumps(manifest))
    assert "../../config.yaml" in refusal(file.parent)
    file.write_text(json.dumps({"format_version": 99, "step": 1, "files": {}}))
    assert "format version 99" in refusal(file.parent)


def test_a_run_of_another_format_is_refused_as_a_whole(run: RunDirectory) -> None:
    """Going on from an older checkpoint that can be read would undo what another version has learned."""
    save(run, 10)
    file = save(run, 20) / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format_version": 2}))
    with pytest.raises(UserError) as caught:
        run.latest()
    assert str(caught.value) == (
        f"checkpoint '{file.parent}' has format version 2, this version of machina reads 4; "
        "use the version of machina that wrote it, or train again"
    )


def test_no_good_checkpoint_left(run: RunDirectory) -> None:
    with pytest.raises(UserError, match="before its first one"):
        run.latest()
    truncate(save(run, 10) / "state.json")
    with pytest.raises(UserError, match=r"no usable checkpoint: .*state\.json' is truncated"):
        latest_checkpoint(run.path)


def test_leftovers_of_a_crash_are_ignored_and_removed(run: RunDirectory) -> None:
    save(run, 10)
    partial = run.checkpoints / ".partial-000000000020"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    assert run.latest().checkpoint.step == 10
    save(run, 30)
    assert not partial.exists()
    assert steps(run) == [10, 30]


def test_a_crash_while_replacing_a_step_loses_nothing(run: RunDirectory) -> None:
    saved = save(run, 10)
    saved.rename(run.checkpoints / ".replaced-000000000010")
    save(run, 20)
    assert load_checkpoint(saved).step == 10


def test_the_same_step_again_replaces(run: RunDirectory) -> None:
    saved = save(run, 10)
    edit(saved / "state.json")
    assert save(run, 10) == saved
    assert load_checkpoint(saved).values == {"updates": 1}
    assert [path.name for path in run.checkpoints.iterdir()] == [saved.name]


def test_prune_keeps_the_latest_and_the_best(run: RunDirectory) -> None:
    save(run, 10)
    run.mark_best(10, 3.5)
    for step in (20, 30, 40):
        save(run, step, keep_last=2)
    assert steps(run) == [10, 30, 40]
    best = run.best()
    assert best is not None
    assert (best.step, best.score) == (10, 3.5)
    run.mark_best(40, 4.0)
    save(run, 50, keep_last=1)
    assert steps(run) == [40, 50]


def test_bad_checkpoints_beyond_the_resumed_one_push_no_good_one_out(run: RunDirectory) -> None:
    for step in (10, 20, 90, 99):
        save(run, step)
    prune(run.checkpoints, save(run, 30), keep_last=2)
    assert steps(run) == [20, 30, 90, 99]


FULL_DISK = """
    import resource, signal, sys
    from pathlib import Path
    import torch
    from machina.checkpoint import CheckpointError, RunDirectory

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    run = RunDirectory.open(Path(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        run.save(20, {"model": {"weight": torch.zeros(200_000)}}, {}, 1)
    except CheckpointError as error:
        print(error)
"""


def test_a_full_disk_leaves_former_checkpoints_alone(run: RunDirectory) -> None:
    save(run, 10)
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(run.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1
    assert str(run.checkpoints) in done.stdout
    assert "free" in done.stdout
    assert [path.name for path in run.checkpoints.iterdir()] == ["000000000010"]
    assert run.latest().checkpoint.step == 10


KILLED = """
    import sys
    from pathlib import Path
    import torch
    from machina.checkpoint import RunDirectory

    run = RunDirectory.open(Path(sys.argv[1]))
    print("started", flush=True)
    step = 0
    while True:
        step += 1
        run.save(step, {"model": {"weight": torch.full((200_000,), float(step))}}, {"step": step}, 2)
"""


def test_a_killed_writer_leaves_good_checkpoints_only(run: RunDirectory) -> None:
    save(run, 0)
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(run.path)]
    for pause in (0.05, 0.11, 0.17):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(pause)
            writer.kill()
        for path in run.checkpoints.iterdir():
            if not path.name.startswith("."):
                checkpoint: Checkpoint = load_checkpoint(path)
                assert checkpoint.step == int(path.name)
        assert run.latest().warnings == []


def test_a_run_that_exists_is_not_overwritten(run: RunDirectory) -> None:
    with pytest.raises(UserError, match=r"pong-1' exists already; choose another --name or .*machina resume"):
        RunDirectory.create(run.path.parent, "pong-1", "seed: 2\n")
    assert run.config_file.read_text() == "seed: 1\n"
    for name in ("../x", "a/b", "", ".hidden"):
        with pytest.raises(UserError, match="plain folder name"):
            RunDirectory.create(run.path.parent, name, "")


def test_open_names_what_is_missing_and_the_nearest_run(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    assert RunDirectory.open(run.path).path == run.path
    with pytest.raises(UserError, match=r"does not exist; did you mean '.*runs/pong-1'"):
        RunDirectory.open(run.path.parent / "pong-2")
    (run.path.parent / "empty").mkdir()
    with pytest.raises(UserError, match=r"not a run directory: it has no config\.yaml"):
        RunDirectory.open(run.path.parent / "empty")
    monkeypatch.chdir(run.path.parent.parent)
    with pytest.raises(UserError, match="did you mean 'runs/pong-1'"):
        RunDirectory.open(Path("pong-1"))


def test_load_from_takes_a_run_or_a_checkpoint(run: RunDirectory) -> None:
    first = save(run, 10)
    save(run, 20)
    assert load_from(run.path).checkpoint.step == 20
    assert load_from(first).checkpoint.step == 10
    with pytest.raises(UserError, match="does not exist"):
        load_from(run.path / "nowhere")


def test_a_runs_dir_that_leads_nowhere_is_no_name_that_is_taken(tmp_path: Path) -> None:
    """A search for a free name would never end."""
    (tmp_path / "runs").symlink_to(tmp_path / "unmounted")
    with pytest.raises(
        UserError, match=r"can't be created: '.*runs' is not a folder; choose another --runs-dir"
    ) as refusal:
        RunDirectory.create(tmp_path / "runs", "run", "")
    assert not isinstance(refusal.value, RunExistsError)
