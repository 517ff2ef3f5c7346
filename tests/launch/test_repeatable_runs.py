"""Same seed, same run; N updates equal N/2, an end of any kind, and N/2 more."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import start, wait_until
from runs import SMALL, assert_same_content, checkpoints, content, last_checkpoint, signal_at, untimed

import machina
from machina.checkpoint import load_checkpoint
from machina.metrics import read_metrics

LSTM = {"lstm_size": 8}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    # Slots are not a multiple of the batch: unrolls wait in the queue when the run ends.
    "catch": ("impala", "catch", {"envs_per_task": 7}),
    "catch, lstm, adam, two actors": (
        "impala",
        "catch",
        {"envs_per_task": 7, "actors": 2, "optimizer": "adam", **LSTM},
    ),
    "counting, lstm, popart": ("impala_popart", "counting", {"envs_per_task": 3, "reward_clip": "none", **LSTM}),
    "two_scales, popart": ("impala_popart", "two_scales", {"envs_per_task": 3, "reward_clip": "none"}),
    "slots are a multiple of the batch": ("impala", "catch", {"envs_per_task": 8, "rmsprop_momentum": 0.5}),
}
UPDATES = 24
FRAMES = UPDATES * SMALL["batch_size"] * SMALL["unroll_length"]


def train(case: str, runs_dir: Path, name: str, **options: Any) -> Path:
    algorithm, environment, special = CASES[case]
    merged = {"total_frames": FRAMES, **SMALL, **special, **options}
    return machina.train(algorithm, environment, name=name, runs_dir=runs_dir, **merged).path


@pytest.mark.parametrize("case", ["catch, lstm, adam, two actors", "two_scales, popart"])
def test_same_seed_same_run(case: str, tmp_path: Path) -> None:
    runs = [train(case, tmp_path, name, log_seconds=1e-9) for name in ("one", "two")]
    assert_same_content(*map(last_checkpoint, runs))
    # A batch that takes long, as where others compute, has lines of its own before its update.
    lines = [[line for line in untimed(read_metrics(run)) if "learner/total_loss" in line] for run in runs]
    assert lines[0] == lines[1]
    assert len(lines[0]) >= UPDATES

    other = train(case, tmp_path, "other", seed=2)
    model, other_model = content(last_checkpoint(runs[0]))[0], content(last_checkpoint(other))[0]
    assert not torch.equal(model["model/policy_head.weight"], other_model["model/policy_head.weight"])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stop_at", [1, UPDATES // 2])
def test_a_stopped_run_continues_bit_for_bit(
    case: str, stop_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(case, tmp_path, "whole")
    with monkeypatch.context() as patch:
        signal_at(stop_at, signal.SIGTERM, patch)
        halved = train(case, tmp_path, "halved")
    half = load_checkpoint(last_checkpoint(halved))
    assert half.values["progress"]["updates"] == stop_at
    run = machina.resume(halved)
    assert run.updates == UPDATES
    assert run.reason == "the schedule is complete"
    assert_same_content(last_checkpoint(whole), last_checkpoint(halved))
    assert content(last_checkpoint(whole))[1]["progress"]["unrolls_lost"] == 0


def test_the_queue_s_leftovers_are_in_the_checkpoint(tmp_path: Path) -> None:
    """7 slots, batches of 4: after 24 updates 96 of 98 unrolls are learned."""
    tensors, _ = content(last_checkpoint(train("catch", tmp_path, "run")))
    assert tensors["plane/queue/slot"].tolist() == [5, 6]
    assert tensors["plane/queue/reward"].shape == (SMALL["unroll_length"] + 1, 2)


def test_a_killed_run_continues_bit_for_bit(tmp_path: Path) -> None:
    """SIGKILL at an arbitrary moment: the last checkpoint is good, and what follows from it is what would have been."""
    options = {"total_frames": 5 * FRAMES, "keep_checkpoints": 10_000}
    case = "counting, lstm, popart"
    whole = train(case, tmp_path, "whole", **options)
    every_update = {"checkpoint_minutes": 1e-9, "runs_dir": tmp_path, "name": "killed"}
    arguments = {**SMALL, **CASES[case][2], **options, **every_update}
    flags = [
        text
        for name, value in arguments.items()
        for text in (f"--{name.replace('_', '-')}", *(map(str, value) if isinstance(value, tuple) else [str(value)]))
    ]
    process = start("train", *CASES[case][:2], *flags, cwd=tmp_path)
    killed = tmp_path / "killed"
    wait_until(lambda: (killed / "checkpoints").is_dir() and len(checkpoints(killed)) >= 6, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    updates = load_checkpoint(last_checkpoint(killed)).values["progress"]["updates"]
    assert 5 <= updates < 5 * UPDATES
    # From here on one checkpoint is enough.
    config = killed / "config.yaml"
    config.write_text(config.read_text().replace("checkpoint_minutes: 1.0e-09", "checkpoint_minutes: 5.0"))
    machina.resume(killed)
    assert_same_content(last_checkpoint(whole), last_checkpoint(killed))


def test_a_complete_run_is_left_as_it_is(tmp_path: Path) -> None:
    path = train("catch", tmp_path, "run")
    before = content(last_checkpoint(path))
    lines = read_metrics(path)
    again = machina.resume(path)
    assert (again.reason, again.updates) == ("the schedule is complete", UPDATES)
    after = content(last_checkpoint(path))
    assert after[0].keys() == before[0].keys()
    assert after[1] == before[1]
    assert read_metrics(path) == lines


def test_schedules_run_over_total_frames_whenever_a_run_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        signal_at(6, signal.SIGINT, patch)
        path = train("catch", tmp_path, "run", log_seconds=1e-9)
    machina.resume(path)
    rates = {line["env_steps"]: line["learner/learning_rate"] for line in read_metrics(path)}
    start = SMALL["learning_rate"]
    for env_steps, rate in rates.items():
        assert env_steps is not None
        # The update that led to this count was made with the rate of the one before.
        assert rate == pytest.approx(start * (1 - (env_steps - FRAMES / UPDATES) / FRAMES))
    assert len(rates) == UPDATES


@pytest.mark.parametrize(
    ("environment", "place"), [("CartPole-v1", "inline"), ("CartPole-v1", "local"), ("catch", "local")]
)
def test_what_a_resumed_run_loses_is_counted(
    environment: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`local` can't stop between two unrolls: those that wait or are being filled are lost. `inline` loses none."""
    envs = 7
    options = {
        **SMALL,
        "place": place,
        "envs_per_task": envs,
        "total_frames": FRAMES,
        "runs_dir": tmp_path,
        "name": "run",
    }
    with monkeypatch.context() as patch:
        signal_at(5, signal.SIGINT, patch)
        path = machina.train("impala", environment, **options).path
    stopped = load_checkpoint(last_checkpoint(path))
    at_hand = stopped.values["unrolls_at_hand"]
    assert at_hand == 0 if place == "inline" else at_hand >= envs
    drawn = {name: int(tensor) for name, tensor in stopped.tensors["plane"].items() if name.endswith("/drawn")}
    run = machina.resume(path)
    assert run.updates == UPDATES
    finished = load_checkpoint(last_checkpoint(path))
    assert finished.values["progress"]["unrolls_lost"] == at_hand
    for name, count in drawn.items():
        assert int(finished.tensors["plane"][name]) > count >= 5, "the action streams continue"
        assert int(finished.tensors["plane"][name.replace("drawn", "restarts")]) == 1, "with other episodes"
    again = machina.resume(path)
    assert again.updates == UPDATES
    assert content(last_checkpoint(path))[1]["progress"]["unrolls_lost"] == at_hand


def test_a_bad_checkpoint_is_passed_over_and_the_run_repeats_what_it_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train("catch", tmp_path, "whole")
    damaged = train("catch", tmp_path, "damaged", checkpoint_minutes=1e-9, keep_checkpoints=100)
    folders = checkpoints(damaged)
    assert len(folders) == UPDATES
    for folder in folders[13:]:
        shutil.rmtree(folder)
    model = folders[12] / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-7])
    machina.resume(damaged)
    assert f"'{model}' is truncated" in capsys.readouterr().err
    assert_same_content(last_checkpoint(whole), last_checkpoint(damaged))
