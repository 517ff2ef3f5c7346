"""Learning curves of runs, and of what runs with different seeds have in common."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from machina.checkpoint import RunDirectory
from machina.errors import UserError
from machina.metrics import read_metrics
from machina.report.scores import human_normalized, score_table
from machina.types import FloatArray
from machina.yaml_files import load_yaml

RETURN_PREFIX = "episode_return/"
EVALUATION_PREFIX = "eval/"

MEDIAN = "human-normalized median, %"
RATING = "rating of the latest snapshot"

Line = Mapping[str, float | None]


class Curve(NamedTuple):
    """Values over frames; of several seeds their mean, least and largest."""

    frames: FloatArray
    values: FloatArray
    least: FloatArray
    largest: FloatArray


class Runs(NamedTuple):
    """One run, or several that differ by nothing but their seed."""

    name: str
    seeds: int
    curves: dict[str, Curve]
    """Training returns by task; where it makes sense ``MEDIAN`` and ``RATING``, first."""
    evaluations: dict[str, Curve]
    """By task, all seeds one after the other."""
    frames: float
    """Of the shortest run."""
    wall_s: float
    """Of the longest run."""


def load_curves(run_dirs: Sequence[Path]) -> list[Runs]:
    """The runs in the order given; those that differ by their seed only are one.

    Raises:
        UserError: no run is given, or one has no finished episode yet.
    """
    if not run_dirs:
        raise UserError("no run to plot; give at least one run directory")
    alike: dict[str, list[Runs]] = {}
    for run_dir in run_dirs:
        alike.setdefault(_all_but_the_seed(run_dir), []).append(_loaded(run_dir))
    return [_joined(runs) for runs in alike.values()]


def check_plottable(run_dir: Path) -> Path:
    """The run, if it has something to plot.

    Raises:
        UserError: it has no finished episode yet, or a file of it is damaged.
    """
    _all_but_the_seed(run_dir)
    _loaded(run_dir)
    return run_dir


def _all_but_the_seed(run_dir: Path) -> str:
    file = RunDirectory(run_dir).config_file
    if not file.exists():
        return str(run_dir)
    config = {name: value for name, value in load_yaml(file).items() if name not in ("seed", "name", "runs_dir")}
    return json.dumps(config, sort_keys=True)


def _loaded(run_dir: Path) -> Runs:
    lines = read_metrics(run_dir)
    if not lines:
        raise UserError(f"run '{run_dir}' has no metrics; train it first, or give the folder that holds metrics.jsonl")
    returns = _by_name(lines, RETURN_PREFIX)
    if not returns:
        raise UserError(f"run '{run_dir}' has no finished episode yet; train it longer")
    first = {MEDIAN: _median(lines), RATING: _by_name(lines, "league/").get("rating")}
    return Runs(
        name=run_dir.resolve().name,
        seeds=1,
        curves={**{name: curve for name, curve in first.items() if curve is not None}, **returns},
        evaluations=_by_name(lines, EVALUATION_PREFIX),
        frames=lines[-1].get("frames") or 0.0,
        wall_s=lines[-1].get("wall_s") or 0.0,
    )


def _by_name(lines: Iterable[Line], prefix: str) -> dict[str, Curve]:
    points: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        frames = line.get("frames") or 0.0
        for name, value in line.items():
            if name.startswith(prefix) and value is not None:
                points.setdefault(name.removeprefix(prefix), []).append((frames, value))
    return {name: _curve(pairs) for name, pairs in sorted(points.items())}


def _curve(pairs: Sequence[tuple[float, float]]) -> Curve:
    frames, values = np.array(pairs, dtype=np.float32).T
    return Curve(frames, values, values, values)


def _median(lines: Sequence[Line]) -> Curve | None:
    """Over the games with an episode so far, from the moment when half of the run's games have one."""
    tasks = {name.removeprefix(RETURN_PREFIX) for line in lines for name in line if name.startswith(RETURN_PREFIX)}
    if len(tasks) < 2 or not tasks <= score_table().keys():
        return None
    pairs = []
    for line in lines:
        scores = [
            score
            for task in tasks
            if (value := line.get(RETURN_PREFIX + task)) is not None
            and (score := human_normalized(task, value)) is not None
        ]
        if 2 * len(scores) >= len(tasks):
            pairs.append((line.get("frames") or 0.0, 100 * float(np.median(scores))))
    return _curve(pairs) if pairs else None


def _joined(runs: Sequence[Runs]) -> Runs:
    """Runs with different seeds as one; their curves end where the shortest ends."""
    if len(runs) == 1:
        return runs[0]
    shared = [name for name in runs[0].curves if all(name in run.curves for run in runs)]
    dots = {task: [run.evaluations[task] for run in runs if task in run.evaluations] for task in shared}
    return Runs(
        name=_shared_start([run.name for run in runs]).rstrip("-_. ") or runs[0].name,
        seeds=len(runs),
        curves={name: _averaged([run.curves[name] for run in runs]) for name in shared},
        evaluations={task: _strung(curves) for task, curves in dots.items() if curves},
        frames=min(run.frames for run in runs),
        wall_s=max(run.wall_s for run in runs),
    )


def _shared_start(names: Sequence[str]) -> str:
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in same)


def _averaged(curves: Sequence[Curve]) -> Curve:
    """On the frames of the first curve, where all have values."""
    start, end = max(curve.frames[0] for curve in curves), min(curve.frames[-1] for curve in curves)
    frames = curves[0].frames[(curves[0].frames >= start) & (curves[0].frames <= end)]
    values = np.array([np.interp(frames, curve.frames, curve.values) for curve in curves], np.float32)
    return Curve(frames, values.mean(axis=0), values.min(axis=0), values.max(axis=0))


def _strung(curves: Sequence[Curve]) -> Curve:
    return Curve(*(np.concatenate(parts) for parts in zip(*curves, strict=True)))
