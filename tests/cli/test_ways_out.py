"""Whatever ends a run, what it learned is in a checkpoint, and the user reads one line."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from commands import SMALL_NET, TINY
from processes import start, wait_until

from machina.checkpoint import RunDirectory
from machina.metrics import read_metrics

FOLDER = Path(__file__).parent
NAMES = ("--envs-per-task", "4", "--log-seconds", "0.05", "--runs-dir", "runs", "--name", "run")
ENDLESS = (*TINY, *SMALL_NET, *NAMES)


def start_here(*arguments: str | Path, folder: Path, **options: Any) -> subprocess.Popen[str]:
    """A command that finds ``ways_out_env``, in a folder of its own."""
    for file in FOLDER.glob("ways_out_env.py"):
        (folder / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    return start(*arguments, cwd=folder, **options)


def assert_saved(folder: Path) -> RunDirectory:
    """The newest checkpoint is of the last update."""
    run = RunDirectory.open(folder / "runs" / "run")
    latest = run.latest()
    assert not latest.warnings
    assert 0 < latest.checkpoint.step == read_metrics(run.path)[-1]["env_steps"]
    return run


@pytest.mark.parametrize("place", ["inline", "local"])
def test_a_full_disk_under_the_log_does_not_end_a_run(place: str, tmp_path: Path) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        schedule = ("--place", place, "--total-frames", "800")
        process = start("train", "impala", "catch", *ENDLESS, *schedule, cwd=tmp_path, stdout=full)
        _, err = process.communicate(timeout=120)
    told = "machina: the output can't be written (No space left on device); the run continues\n"
    assert (process.returncode, err) == (0, told)
    assert assert_saved(tmp_path).latest().checkpoint.step >= 800


def test_a_full_disk_under_the_errors_as_well(tmp_path: Path) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        schedule = ("--total-frames", "400")
        process = start("train", "impala", "catch", *ENDLESS, *schedule, cwd=tmp_path, stdout=full, stderr=full)
        assert process.wait(120) == 0
    assert_saved(tmp_path)


def test_a_closed_terminal_stops_and_saves(tmp_path: Path) -> None:
    """The session's leader, a shell as a rule, sends a second SIGHUP: that is no wish for an abort."""
    process = start("train", "impala", "catch", *ENDLESS, "--place", "local", cwd=tmp_path, start_new_session=True)
    wait_until(lambda: len(read_metrics(tmp_path / "runs" / "run")) >= 3, process)
    os.killpg(process.pid, signal.SIGHUP)
    os.killpg(process.pid, signal.SIGHUP)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "SIGHUP received" in out
    assert_saved(tmp_path)


@pytest.mark.parametrize("place", ["inline", "local"])
def test_sys_exit_in_an_environment_is_a_fault_of_it(place: str, tmp_path: Path) -> None:
    options = (*ENDLESS, "--place", place, "--processes", "False", "--total-frames", "400")
    process = start_here("train", "impala", "ways_out_env:Exits-v0", *options, folder=tmp_path)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert "replaced: environment 'ways_out_env:Exits-v0': step raised SystemExit: the simulator gave up" in out
    assert assert_saved(tmp_path).latest().checkpoint.step >= 400
