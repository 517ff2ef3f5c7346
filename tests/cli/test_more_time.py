"""A run that is given more time or frames, one clock for its progress, names that are free, and whether it lives."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from commands import TINY, Command
from processes import start, wait_until

import machina
from machina.checkpoint import RunDirectory
from machina.launch.configuration import saved_config
from machina.launch.ending import Ending
from machina.metrics import read_metrics

CATCH = ("--config", "defaults", "--hidden-sizes", "16", "--envs-per-task", "4")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    return Command(capsys, tmp_path)


def test_resume_with_more_frames(cli: Command) -> None:
    run = cli.train("impala", "catch", *CATCH, "--total-frames", "400")
    ended = cli.good("resume", run)
    assert "the schedule is complete" in ended
    assert f"machina resume {run} --total-frames N" in ended
    assert RunDirectory.open(run).latest().checkpoint.step == 400
    assert "600 frames" in cli.good("resume", run, "--total-frames", "600")
    assert RunDirectory.open(run).latest().checkpoint.step == 600
    assert saved_config(run).total_frames == 600, "later commands agree"
    assert "the schedule is complete" in cli.good("resume", run)
    assert machina.resume(run, total_frames=640).env_steps == 640
    rates = [line["learner/learning_rate"] for line in read_metrics(run) if "learner/learning_rate" in line]
    assert rates[-1] is not None
    assert 0 <= rates[-1] < 1e-4, "the schedules run over the new length"


def test_resume_with_other_minutes(cli: Command) -> None:
    run = cli.train("impala", "catch", *CATCH, "--minutes", "0.01")
    assert "0.02 minutes are over" in cli.good("resume", run, "--minutes", "0.02")
    assert saved_config(run).minutes == 0.02
    assert "0.02 minutes are over" in cli.good("resume", run)


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        (("--total-frames", "400"), "total_frames=400: the run has learned from 400 frames already; give it more"),
        (("--minutes", "1"), "total_frames=400: the run has learned from 400 frames already; give it more"),
        (("--total-frames", "0"), "total_frames=0: must be 1 to"),
        (("--minutes", "-3"), "minutes=-3.0: must be more than 0"),
        (("--minutes", "nan"), "minutes=nan: must be more than 0"),
        (("--minutes", "soon"), "minutes"),
        (("--seed", "3"), "unknown option '--seed'"),
    ],
)
def test_refusals_change_nothing(options: tuple[str, ...], refusal: str, cli: Command) -> None:
    run = cli.train("impala", "catch", *CATCH, "--total-frames", "400")
    before = (run / "config.yaml").read_text()
    assert refusal in cli.refused("resume", run, *options)
    assert (run / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    ("edit", "refusal"),
    [
        (("batch_size: 4", "batch_size: 1000000"), "batch_size=1000000: with unroll_length=5 a batch is 5,000,000 env"),
        (("- 16", "- 17"), "network.hidden_sizes is [16], by the run's config.yaml [17]; put it back"),
    ],
)
def test_what_is_refused_for_another_reason_is_not_saved(edit: tuple[str, str], refusal: str, cli: Command) -> None:
    run = cli.train("impala", "catch", *CATCH, "--total-frames", "400")
    file = run / "config.yaml"
    assert edit[0] in file.read_text()
    edited = file.read_text().replace(*edit) + "# a note of the user's\n"
    file.write_text(edited)
    assert refusal in cli.refused("resume", run, "--total-frames", "600")
    assert file.read_text() == edited


def test_progress_goes_by_the_clock_that_ends_the_run(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first line says of a run whose environments took half of its minutes to start."""
    begin = Ending.begin

    def begin_early(self: Ending) -> None:
        begin(self)
        assert self._started is not None
        self._started -= 3  # environments that took three seconds

    monkeypatch.setattr(Ending, "begin", begin_early)
    for command in (
        ("train", "impala", "catch", *TINY, *CATCH, "--minutes", "0.1", "--runs-dir", cli.runs, "--name", "run"),
        ("resume", cli.runs / "run"),
    ):
        first = next(line for line in cli.good(*command).splitlines() if "env steps" in line)
        done = re.search(r"\((\d+\.\d+)%\)", first)
        assert done is not None
        assert 50 <= float(done[1]) < 100
        assert re.search("eta [012]s", first)


def test_two_runs_of_the_same_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda *_: "20261130-120000")
    options = {"place": "inline", "hidden_sizes": (16,), "total_frames": 40, "unroll_length": 5, "batch_size": 4}
    runs = [machina.train("impala", "catch", "defaults", runs_dir=tmp_path, **options) for _ in range(3)]
    assert [run.path.name for run in runs] == [f"impala_catch_20261130-120000{end}" for end in ("", "-2", "-3")]
    assert [saved_config(run.path).name for run in runs] == [run.path.name for run in runs]


def test_status_does_not_go_by_the_time_of_day(cli: Command) -> None:
    """The clock is set while it runs; then it is frozen, then killed."""
    options = (*TINY, *CATCH, "--runs-dir", "runs", "--name", "run")
    process = start("train", "impala", "catch", *options, cwd=cli.folder)
    run = RunDirectory(cli.folder / "runs" / "run")
    file = run.path / "status.json"
    wait_until(file.exists, process)
    try:
        for days in (-365, 365):
            now = time.time() + days * 86400
            wait_until(lambda: run.status().ended is None, process)
            text = re.sub(r'"time": ?[0-9.]+', f'"time": {now}', file.read_text(encoding="utf-8"))
            file.write_text(text, encoding="utf-8")
            heading = cli.good("status", run.path).splitlines()[0]
            assert re.fullmatch(rf"{run.path}: process {process.pid}, [0-2] s ago", heading)
    finally:
        process.kill()
        process.communicate()
    for since_boot_s, age in ((None, "[0-9]+ s ago"), (1.0, "[0-9]+ s ago")):
        if since_boot_s is not None:
            text = re.sub(r'"since_boot_s": ?[0-9.]+', f'"since_boot_s": {since_boot_s}', file.read_text())
            file.write_text(text)
        heading = cli.good("status", run.path).splitlines()[0]
        assert re.fullmatch(
            rf"{run.path}: process {process.pid}, {age}; it was killed: machina resume {run.path}", heading
        )
    with run.held():
        pass  # asking leaves the lock as it is


def test_status_on_another_machine(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the machine that trains says nothing there; the lock does, where the disk is shared."""
    run = cli.train("impala", "catch", *CATCH, "--total-frames", "40")
    file = run / "status.json"
    status = json.loads(file.read_text())
    file.write_text(json.dumps({**status, "boot": "another", "since_boot_s": 5.0, "ended": None}))
    told = f"{run}: process {status['pid']}, on another machine, or before this one started"
    ends = {
        True: "",
        False: f"; it was killed: machina resume {run}",
        None: "; whether it is alive can't be known here",
    }
    for held, end in ends.items():
        monkeypatch.setattr(RunDirectory, "is_held", lambda _, held=held: held)
        assert cli.good("status", run).splitlines()[0] == told + end
