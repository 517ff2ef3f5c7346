"""Ctrl-C once: stop after this update and save. Twice: abort at once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from commands import SMALL_NET, TINY
from processes import start, wait_until

from machina.checkpoint import RunDirectory
from machina.metrics import read_metrics

ENDLESS = (*TINY, *SMALL_NET, "--envs-per-task", "4", "--log-seconds", "0.05", "--runs-dir", "runs", "--name", "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", ["inline", "local"])
def test_one_signal_stops_and_saves(number: signal.Signals, place: str, tmp_path: Path) -> None:
    process = start("train", "impala", "catch", *ENDLESS, "--place", place, cwd=tmp_path)
    run = tmp_path / "runs" / "run"
    wait_until(lambda: len(read_metrics(run)) >= 3, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert f"{number.name} received" in out
    assert "machina resume runs/run" in out
    checkpoint = RunDirectory.open(run).latest().checkpoint
    assert checkpoint.values["progress"]["updates"] > 0
    assert read_metrics(run)[-1]["env_steps"] == checkpoint.step


@pytest.mark.parametrize("place", ["inline", "local"])
def test_a_signal_while_environments_start_leaves_a_run_to_resume(place: str, tmp_path: Path) -> None:
    names = ("--runs-dir", "runs", "--name", "run")
    options = (*TINY, "--place", place, "--config", "defaults", "--envs-per-task", "10", *names)
    process = start("train", "impala", "pong", *options, cwd=tmp_path)
    run = tmp_path / "runs" / "run"
    wait_until((run / "metrics.jsonl").exists, process)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "SIGINT received" in out
    saved = RunDirectory.open(run).latest().checkpoint
    assert saved.values["progress"]["updates"] <= 1

    process = start("resume", run, cwd=tmp_path)
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    again = RunDirectory.open(run).latest().checkpoint
    assert again.values["progress"]["updates"] >= saved.values["progress"]["updates"]
    drawn = {name: int(tensor) for name, tensor in saved.tensors["plane"].items() if name.endswith("/drawn")}
    assert all(int(again.tensors["plane"][name]) >= count for name, count in drawn.items())


def test_a_second_signal_aborts(tmp_path: Path) -> None:
    """The environment's step takes ten minutes and nothing else runs: only an abort ends this."""
    shutil.copy(Path(__file__).parent / "sleepy_env.py", tmp_path)
    options = (*ENDLESS, "--processes", "False")
    process = start("train", "impala", "sleepy_env:Sleepy-v0", *options, cwd=tmp_path)
    wait_until((tmp_path / "asleep").exists, process)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None, "the first signal waits for the update"
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 5
    assert process.returncode == -signal.SIGINT
    assert "Traceback" not in err


def test_a_signal_ends_an_evaluation_in_progress(tmp_path: Path) -> None:
    """Evaluations take minutes; the run must not wait for their end to stop."""
    options = (*ENDLESS, "--eval-every", "20", "--eval-episodes", "100000", "--log-seconds", "1e-9")
    process = start("train", "impala", "catch", *options, cwd=tmp_path)
    run = tmp_path / "runs" / "run"
    wait_until(lambda: len(read_metrics(run)) == 1, process)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "no evaluation: evaluation stopped before its end" in out
    assert RunDirectory.open(run).latest().checkpoint.step == 20


def test_a_run_in_worker_processes_stops_clean(tmp_path: Path) -> None:
    options = (*ENDLESS, "--place", "local", "--processes", "True")
    process = start("train", "impala", "CartPole-v1", *options, cwd=tmp_path, start_new_session=True)
    run = tmp_path / "runs" / "run"
    wait_until(lambda: len(read_metrics(run)) >= 3, process)
    # As a terminal does: the signal reaches the workers as well.
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "SIGINT received" in out
    assert "replaced: " not in out


@pytest.mark.parametrize("arguments", [["list"], ["--help"], ["train", "ppo", "pong", "--help"]])
def test_a_reader_that_goes_away_is_no_error(arguments: list[str], tmp_path: Path) -> None:
    process = start(*arguments, cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""


@pytest.mark.parametrize("errors", ["apart", "with it"])
def test_a_run_continues_without_a_reader(errors: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {} if errors == "apart" else {"stderr": subprocess.STDOUT}
    command = ("train", "impala", "catch", *ENDLESS, "--place", "inline", "--minutes", "0.1")
    process = start(*command, cwd=tmp_path, **options)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(120) == 0
    if process.stderr is not None:
        assert process.stderr.read() == "machina: nobody reads the output any more; the run continues\n"
    run = RunDirectory.open(tmp_path / "runs" / "run")
    assert read_metrics(run.path)[-1]["env_steps"] == run.latest().checkpoint.step > 0


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path) -> None:
    first = start("train", "impala", "catch", *ENDLESS, "--checkpoint-minutes", "1e-9", cwd=tmp_path)
    run = tmp_path / "runs" / "run"
    wait_until(lambda: any((run / "checkpoints").glob("0*")), first)
    second = start("resume", "runs/run", cwd=tmp_path)
    _, err = second.communicate(timeout=60)
    assert (second.returncode, err) == (
        2,
        "machina: run 'runs/run' is being trained by another process; stop that one first, or wait for it\n",
    )
    first.kill()
    first.communicate()
    third = start("resume", "runs/run", cwd=tmp_path)
    steps = len(read_metrics(run))
    wait_until(lambda: len(read_metrics(run)) > steps, third)
    third.send_signal(signal.SIGINT)
    third.communicate(timeout=60)
    assert third.returncode == 0
