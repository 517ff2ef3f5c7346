"""What a run measures: ``metrics.jsonl`` and TensorBoard, episode statistics, time shares.

Metrics are named ``group/name`` ("learner/total_loss", "speed/env_steps_per_s", "episode_return/pong"); env
steps are the x-axis everywhere.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from machina.config import one_line
from machina.errors import UserError
from machina.types import Episode

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tb"
_IN_EVERY_LINE = ("env_steps", "frames", "wall_s")
_LINE = TypeAdapter(dict[str, Annotated[float, Field(allow_inf_nan=False)] | None])
WINDOW = 100
"""Training returns are means over this many latest episodes, as `until_return` promises."""


class MetricsWriter:
    """Appends metrics to a run: one JSON line and one TensorBoard event per ``write``.

    A disk that refuses (full) does not stop the run: what could not be written is dropped whole, so both files
    stay readable, and the first time stderr gets a line.

    TensorBoard events are written here and not by torch's SummaryWriter, whose thread dies for good, with a
    traceback, at the first refused write and leaves a torn record that hides everything after it.
    """

    def __init__(self, run_dir: Path, resume_at: int | None = None) -> None:
        """Open the files of a run.

        Args:
            run_dir: The run directory; it exists.
            resume_at: Env steps of the checkpoint a run continues from; metrics beyond it are dropped.
        """
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]

        self._warned = False
        metrics = run_dir / METRICS_FILE
        if metrics.exists():
            _cut(metrics, resume_at)
        self._lines = _AppendFile(metrics)
        folder = run_dir / TENSORBOARD_FOLDER
        folder.mkdir(exist_ok=True)
        self._events = _AppendFile(folder / f"events.out.tfevents.{time.time_ns()}.machina")
        self._append(self._events, _record(Event(wall_time=time.time(), file_version="brain.Event:2")))
        if resume_at is not None:
            # TensorBoard drops what earlier files hold at and beyond the step of a session start.
            start = Event(wall_time=time.time(), step=resume_at + 1, session_log=SessionLog(status=SessionLog.START))
            self._append(self._events, _record(start))

    def write(self, values: Mapping[str, float], env_steps: int, frames: int, wall_s: float) -> None:
        """Append one line.

        Args:
            values: Metrics by ``group/name``; a value that is not finite becomes null and no TensorBoard point.
            env_steps: The x-axis.
            frames: Environment frames so far.
            wall_s: Training time so far in seconds, earlier sessions included.
        """
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        finite = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        line = {"env_steps": env_steps, "frames": frames, "wall_s": round(wall_s, 3), **finite}
        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in finite.items() if value is not None]
        event = Event(wall_time=time.time(), step=env_steps, summary=Summary(value=points))
        self._append(self._lines, json.dumps(line).encode() + b"\n")
        self._append(self._events, _record(event))

    def close(self) -> None:
        """Close the files."""
        self._lines.close()
        self._events.close()

    def _append(self, file: _AppendFile, content: bytes) -> None:
        try:
            file.append(content)
        except OSError as error:
            if self._warned:
                return
            self._warned = True
            reason = error.strerror or error
            print(
                f"metrics can't be written to '{file.path}': {reason}; the run continues", file=sys.stderr, flush=True
            )


def read_metrics(run_dir: Path) -> list[dict[str, float | None]]:
    """The lines of ``metrics.jsonl``, without a torn last one; empty when there is no file.

    Raises:
        UserError: a line was edited, or the file can't be read.
    """
    file = run_dir / METRICS_FILE
    try:
        return [line for line, _ in _parsed(file)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"'{file}' can't be read: {error.strerror}") from error


class TaskStatistics(NamedTuple):
    """Training episodes of one task."""

    episodes: int
    """Finished since the run began."""
    mean_return: float | None
    """Over the window; None before the first episode ends."""
    mean_length: float | None
    """In env steps, over the window."""


class EpisodeTracker:
    """Returns and lengths of the latest episodes, per task and over all; used by several threads."""

    def __init__(self, num_tasks: int, window: int = WINDOW) -> None:
        self._lock = threading.Lock()
        self._window = window
        self._counts = [0] * num_tasks
        self._tasks: list[deque[tuple[float, int]]] = [deque(maxlen=window) for _ in range(num_tasks)]
        self._latest: deque[float] = deque(maxlen=window)

    def record(self, episode: Episode) -> None:
        """Count a finished episode."""
        episode_return = float(episode.episode_return)
        with self._lock:
            self._counts[episode.task_id] += 1
            self._tasks[episode.task_id].append((episode_return, int(episode.length)))
            self._latest.append(episode_return)

    def statistics(self) -> list[TaskStatistics]:
        """One entry per task."""
        with self._lock:
            return [
                TaskStatistics(
                    episodes=count,
                    mean_return=_mean([value for value, _ in episodes]),
                    mean_length=_mean([length for _, length in episodes]),
                )
                for count, episodes in zip(self._counts, self._tasks, strict=True)
            ]

    def window_return(self) -> float | None:
        """Mean return of the run's latest episodes, all tasks together; None until the window is full."""
        with self._lock:
            return _mean(self._latest) if len(self._latest) == self._window else None

    def metrics(self, tasks: Sequence[str]) -> dict[str, float]:
        """``episode_return/<task>``, ``episode_length/<task>`` and ``episodes/<task>``; no entry without an episode."""
        result: dict[str, float] = {}
        for task, entry in zip(tasks, self.statistics(), strict=True):
            if entry.mean_return is not None and entry.mean_length is not None:
                result[f"episode_return/{task}"] = entry.mean_return
                result[f"episode_length/{task}"] = entry.mean_length
                result[f"episodes/{task}"] = float(entry.episodes)
        return result

    def state(self) -> dict[str, Any]:
        """What JSON can hold, for a checkpoint."""
        with self._lock:
            tasks = [[list(episode) for episode in episodes] for episodes in self._tasks]
            return {"counts": list(self._counts), "tasks": tasks, "latest": list(self._latest)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``; it has as many tasks as this tracker.

        Raises:
            ValueError: the number of tasks differs.
        """
        if len(state["counts"]) != len(self._counts):
            raise ValueError(f"episode statistics are of {len(state['counts'])} tasks, expected {len(self._counts)}")
        with self._lock:
            self._counts = [int(count) for count in state["counts"]]
            for episodes, saved in zip(self._tasks, state["tasks"], strict=True):
                episodes.clear()
                episodes.extend((float(value), int(length)) for value, length in saved)
            self._latest.clear()
            self._latest.extend(float(value) for value in state["latest"])


class TimeShares:
    """Where one thread's time goes. Only that thread adds; any thread may read ``seconds``."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def add(self, name: str, seconds: float) -> None:
        """Count ``seconds`` under ``name``."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def measure(self, name: str) -> _Measured:
        """``with shares.measure("env"): ...``."""
        return _Measured(self, name)

    def seconds(self) -> dict[str, float]:
        """Seconds by name since the thread began."""
        return dict(self._seconds)


class _Measured:
    __slots__ = ("_name", "_shares", "_started")

    def __init__(self, shares: TimeShares, name: str) -> None:
        self._shares = shares
        self._name = name

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._shares.add(self._name, time.perf_counter() - self._started)


def merged_seconds(readings: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Seconds by name, summed over threads' or processes' readings."""
    total: dict[str, float] = {}
    for reading in readings:
        for name, seconds in reading.items():
            total[name] = total.get(name, 0.0) + seconds
    return total


def time_fractions(after: Mapping[str, float], before: Mapping[str, float] | None = None) -> dict[str, float]:
    """Shares of the measured time between two readings of seconds; empty when nothing was measured."""
    spent = {name: seconds - (before or {}).get(name, 0.0) for name, seconds in after.items()}
    total = sum(spent.values())
    return {name: seconds / total for name, seconds in spent.items()} if total > 0 else {}


class _AppendFile:
    """A file to which whole records are appended; a refused record leaves no bytes behind."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Unbuffered: a buffered file would keep a refused record and try it again at close.
        self._file = path.open("ab", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size

    def append(self, record: bytes) -> None:
        try:
            rest = memoryview(record)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(self._size)
            raise
        self._size += len(record)

    def close(self) -> None:
        self._file.close()


def _record(event: Any) -> bytes:
    from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

    buffer = io.BytesIO()
    RecordWriter(buffer).write(event.SerializeToString())
    return buffer.getvalue()


def _parsed(file: Path) -> list[tuple[dict[str, float | None], int]]:
    """Each line with the offset of its end, without a torn last one.

    Raises:
        UserError: a line was edited.
    """
    lines: list[tuple[dict[str, float | None], int]] = []
    end = 0
    for number, raw in enumerate(file.read_bytes().split(b"\n")[:-1], 1):
        end += len(raw) + 1
        where = f"'{file}' line {number}"
        try:
            line = _LINE.validate_json(raw, strict=True)
        except ValidationError as error:
            raise UserError(f"{one_line(error, f'{where} was edited')}; remove that line") from error
        if missing := [name for name in _IN_EVERY_LINE if line.get(name) is None]:
            raise UserError(f"{where} has no '{missing[0]}'; remove that line")
        lines.append((line, end))
    return lines


def _cut(metrics: Path, resume_at: int | None) -> None:
    """Cut a torn end and the lines beyond ``resume_at``; steps only grow, so both are the file's tail."""
    end = 0
    for line, line_end in _parsed(metrics):
        if resume_at is not None and (line.get("env_steps") or 0) > resume_at:
            break
        end = line_end
    os.truncate(metrics, end)


def _mean(values: Sequence[float] | deque[float]) -> float | None:
    return sum(values) / len(values) if values else None
