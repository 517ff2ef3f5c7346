"""Metrics files, episode statistics and time shares."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from machina.metrics import EpisodeTracker, MetricsWriter, TimeShares, merged_seconds, read_metrics, time_fractions
from machina.types import Episode


def write_steps(run_dir: Path, steps: range, resume_at: int | None = None) -> None:
    writer = MetricsWriter(run_dir, resume_at)
    for step in steps:
        writer.write({"learner/total_loss": float(step)}, step, 4 * step, step / 10)
    writer.close()


def tensorboard_steps(run_dir: Path, tag: str = "learner/total_loss") -> list[int]:
    accumulator = EventAccumulator(str(run_dir / "tb"))
    accumulator.Reload()
    return [event.step for event in accumulator.Scalars(tag)]


def test_lines_and_events(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    writer.write({"a/good": 1.5, "a/nan": math.nan, "a/inf": -math.inf}, env_steps=20, frames=80, wall_s=1.23456)
    # Read while the writer is open: a line is on the disk when write returns.
    expected = {"env_steps": 20, "frames": 80, "wall_s": 1.235, "a/good": 1.5, "a/nan": None, "a/inf": None}
    assert read_metrics(tmp_path) == [expected]
    assert tensorboard_steps(tmp_path, "a/good") == [20]
    writer.close()


def test_resume_drops_what_lies_beyond_the_checkpoint(tmp_path: Path) -> None:
    write_steps(tmp_path, range(10, 60, 10))
    write_steps(tmp_path, range(40, 60, 10), resume_at=30)
    assert [line["env_steps"] for line in read_metrics(tmp_path)] == [10, 20, 30, 40, 50]
    assert tensorboard_steps(tmp_path) == [10, 20, 30, 40, 50]


def test_a_torn_last_line_is_ignored_and_cut(tmp_path: Path) -> None:
    write_steps(tmp_path, range(10, 30, 10))
    file = tmp_path / "metrics.jsonl"
    with file.open("a") as torn:
        torn.write('{"env_steps": 30, "fra')
    assert [line["env_steps"] for line in read_metrics(tmp_path)] == [10, 20]
    write_steps(tmp_path, range(30, 40, 10), resume_at=20)
    assert [json.loads(line)["env_steps"] for line in file.read_text().splitlines()] == [10, 20, 30]


def test_no_file_no_lines(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


FULL_DISK = """
    import resource, signal, sys
    from pathlib import Path
    from machina.metrics import MetricsWriter

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    writer = MetricsWriter(Path(sys.argv[1]))
    values = {"group/name": 1.0}
    for step in range(20):
        if step == 5:
            # A third of a line still fits.
            limit = (Path(sys.argv[1]) / "metrics.jsonl").stat().st_size + 20
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        if step == 15:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        writer.write(values, step, step, 0.0)
    print("trained on")
"""


def test_a_full_disk_is_warned_of_once_and_tears_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "trained on\n", done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "can't be written" in done.stderr
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    written = [0, 1, 2, 3, 4, 15, 16, 17, 18, 19]
    assert [json.loads(line)["env_steps"] for line in lines] == written
    assert set(written) <= set(tensorboard_steps(tmp_path, "group/name"))


def test_episode_statistics_against_plain_lists() -> None:
    tracker = EpisodeTracker(num_tasks=3, window=4)
    returns: list[list[float]] = [[], [], []]
    order: list[float] = []
    for index in range(17):
        task = (index * index) % 2
        returns[task].append(index * 1.5)
        order.append(index * 1.5)
        tracker.record(Episode(task, index * 1.5, 10 + index))
        for values, entry in zip(returns, tracker.statistics(), strict=True):
            assert entry.episodes == len(values)
            assert entry.mean_return == (pytest.approx(sum(values[-4:]) / len(values[-4:])) if values else None)
        assert tracker.window_return() == (None if len(order) < 4 else pytest.approx(sum(order[-4:]) / 4))
    metrics = tracker.metrics(["a", "b", "c"])
    assert metrics["episodes/a"] + metrics["episodes/b"] == 17
    assert not any(name.endswith("/c") for name in metrics)


def test_episode_statistics_survive_json() -> None:
    tracker = EpisodeTracker(num_tasks=2, window=3)
    for index in range(5):
        tracker.record(Episode(index % 2, float(index), index))
    other = EpisodeTracker(num_tasks=2, window=3)
    other.load_state(json.loads(json.dumps(tracker.state())))
    for each in (tracker, other):
        each.record(Episode(1, 9.0, 9))
    assert other.statistics() == tracker.statistics()
    assert other.window_return() == tracker.window_return()
    with pytest.raises(ValueError, match="2 tasks, expected 5"):
        EpisodeTracker(num_tasks=5).load_state(tracker.state())


def test_time_shares() -> None:
    actor, learner = TimeShares(), TimeShares()
    with actor.measure("env"):
        time.sleep(0.02)
    assert 0.015 < actor.seconds()["env"] < 1
    actor.add("acting", 1.0)
    learner.add("acting", 2.0)
    before = merged_seconds([actor.seconds(), learner.seconds()])
    assert before["acting"] == 3.0
    learner.add("learning", 3.0)
    learner.add("acting", 1.0)
    assert time_fractions(merged_seconds([actor.seconds(), learner.seconds()]), before) == pytest.approx(
        {"env": 0.0, "acting": 0.25, "learning": 0.75}
    )
    assert time_fractions({}) == {}
