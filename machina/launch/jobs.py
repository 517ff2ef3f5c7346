"""What the commands do, callable from Python: train, resume, evaluate."""

from __future__ import annotations

import itertools
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from machina.checkpoint import Checkpoint, Latest, RunDirectory
from machina.checkpoint.run_directory import RunExistsError, load_from
from machina.config import LeagueConfig, to_yaml
from machina.errors import UserError, nearest
from machina.interfaces import Policy
from machina.launch.ceiling import cached_ceiling
from machina.launch.configuration import AnyRunConfig, changed_config, config_for_acting, saved_config
from machina.launch.ending import Outcome
from machina.launch.evaluation import Progress, evaluate
from machina.launch.parts import (
    Parts,
    build_parts,
    policy_maker,
    seed_shared_generators,
    shares_generators,
    total_env_steps,
)
from machina.launch.places import Place, open_place
from machina.launch.saved_state import checkpoint_state, own_state
from machina.launch.sizes import check_batch_fills, check_memory
from machina.launch.training import Trainer
from machina.launch.watching import RunView
from machina.nets.config import NetworkConfig
from machina.nets.reading import read
from machina.report.evaluation import EvaluationResult
from machina.report.output import steady_output
from machina.report.screen import RunFacts
from machina.runtime.hardware import torch_threads, tune_process
from machina.specs import EnvSpec


def train(config: AnyRunConfig, source: str = "the caller") -> tuple[RunDirectory, Outcome]:
    """Train in a new run directory.

    Args:
        config: the resolved configuration, see ``machina.launch.configuration.job_config``.
        source: where its values come from; shown.

    Raises:
        UserError: something of the configuration is unusable; then no run directory is left behind.
        RunFailedError: the run stopped for a fault; a checkpoint was written.
    """
    _check_league(config)
    parts = build_parts(config)
    _check_network(config, parts.factory.spec)
    check_batch_fills(config, parts)
    check_memory(config, parts)
    initial = None if config.init_from is None else _good(load_from(config.init_from))
    if initial is not None:
        checkpoint_state(initial)
    config, run = _new_run(config)
    try:
        with run.held(), steady_output():
            return run, _run(config, parts, run, None, initial, source)
    except UserError:
        if not any(run.checkpoints.iterdir()):  # the name stays free for the corrected command
            shutil.rmtree(run.path)
        raise


def _new_run(config: AnyRunConfig) -> tuple[AnyRunConfig, RunDirectory]:
    """The directory of a new run, and the configuration with its name; two that start in the same second get two."""
    if config.name is not None:
        return config, RunDirectory.create(config.runs_dir, config.name, to_yaml(config))
    moment = f"{config.algorithm}_{file_name(config.environment)}_{time.strftime('%Y%m%d-%H%M%S')}"
    for number in itertools.count(1):
        name = moment if number == 1 else f"{moment}-{number}"
        named = config.model_copy(update={"name": name})
        with suppress(RunExistsError):
            return named, RunDirectory.create(named.runs_dir, name, to_yaml(named))
    raise AssertionError("unreachable")


def _check_league(config: AnyRunConfig) -> None:
    """Refuse options of a league where none is played."""
    given, unused = config.league.model_dump(), LeagueConfig().model_dump()
    if config.league.snapshot_updates is not None or given == unused:
        return
    options = ", ".join(f"{name}={value}" for name, value in given.items() if value != unused[name])
    raise UserError(
        f"{options}: no league without snapshot_updates; use `machina league {config.environment}`, or leave it out"
    )


def _check_network(config: AnyRunConfig, spec: EnvSpec) -> None:
    """Refuse options of the network that nothing of this environment heeds; a network of the user's own may.

    Not where a run goes on: in its checkpoint they are part of the network's identity.
    """
    network = getattr(config.algo, "network", None)
    if not isinstance(network, NetworkConfig) or network.network_name is not None:
        return
    reading = read(spec, network)
    refusals = []
    if network.image_layout != "auto" and all(image.layout == "HW" for image in reading.images.values()):
        refusals.append(
            f"image_layout={network.image_layout}: no array of {spec.name!r} is read as an image with channels"
        )
    divisor = network.observation_divisor
    if divisor is not None:
        halved = network.model_copy(update={"observation_divisor": divisor / 2})
        if read(spec, halved).scales == reading.scales:
            refusals.append(f"observation_divisor={divisor:g}: {spec.name!r} gives neither bytes nor images to divide")
    if network.initial_log_deviation != 0 and spec.action.kind != "continuous":
        refusals.append(
            f"initial_log_deviation={network.initial_log_deviation:g}: actions of {spec.name!r} are choices"
        )
    if refusals:
        raise UserError(f"{refusals[0]} ({reading.told(spec)}); leave it out")


def resume(path: Path, minutes: float | None = None, total_frames: int | None = None) -> tuple[RunDirectory, Outcome]:
    """Go on from a run's last good checkpoint.

    Args:
        path: run directory.
        minutes: of this session, and of those after it; None leaves it as it was.
        total_frames: length of the run and its schedules from now on; None leaves it as it was.

    Raises:
        UserError: ``path`` is no run, is being trained, none of its checkpoints is good, or a value is out of range.
        RunFailedError: see ``train``.
    """
    run = RunDirectory.open(path)
    config = saved_config(run.path)
    asked = {"minutes": minutes, "total_frames": total_frames}
    changes = {name: value for name, value in asked.items() if value is not None}
    if changes:
        config = changed_config(config, changes)
    with run.held(), steady_output():
        run.best()  # a damaged name would cost the best checkpoint
        checkpoint = _good(run.latest())
        parts = build_parts(config)
        check_batch_fills(config, parts)
        check_memory(config, parts)
        own_state(checkpoint, config, parts.factory.spec)
        if changes:
            _check_longer(config, parts, checkpoint)
            _save_config(run, config)
        return run, _run(config, parts, run, checkpoint, None, f"run {path}")


def _check_longer(config: AnyRunConfig, parts: Parts, checkpoint: Checkpoint) -> None:
    """Refuse a schedule that is over.

    Raises:
        UserError: the run has learned from so many frames.
    """
    if checkpoint.step >= total_env_steps(config, parts.factory):
        learned = checkpoint.step * parts.factory.spec.frames_per_step
        schedule = "its schedule" if config.total_frames is None else f"total_frames={config.total_frames}"
        raise UserError(f"{schedule}: the run has learned from {learned:,} frames already; give it more --total-frames")


def _save_config(run: RunDirectory, config: AnyRunConfig) -> None:
    """So that every later command knows of the changes.

    Raises:
        UserError: the disk refuses.
    """
    try:
        run.write_config(to_yaml(config))
    except OSError as error:
        raise UserError(f"'{run.config_file}' could not be written: {error.strerror or error}") from error


def _good(latest: Latest) -> Checkpoint:
    """The checkpoint, after a line on stderr for each bad one that was passed over."""
    for warning in latest.warnings:
        print(f"machina: {warning}", file=sys.stderr)
    return latest.checkpoint


def _run(
    config: AnyRunConfig,
    parts: Parts,
    run: RunDirectory,
    checkpoint: Checkpoint | None,
    initial: Checkpoint | None,
    source: str,
) -> Outcome:
    tune_process(parts.machine.learner_threads)
    seed_shared_generators(parts.factory, config.seed, 0 if checkpoint is None else checkpoint.step)
    view = RunView(
        _facts(config, parts, run, source),
        parts.factory.spec,
        total_env_steps(config, parts.factory),
        config.minutes,
        cached_ceiling(config, parts.machine),
    )
    place: Place | None = None
    try:
        place = open_place(config, parts)
        trainer = Trainer(config, parts, place, run, view, checkpoint)
        if initial is not None:
            trainer.learners.load_initial(initial.tensors["model"], config.init_value)
        outcome = trainer.run()
        league = config.league.snapshot_updates is not None
        view.final(run.path, outcome.reason, trainer.episodes, league=league)
        return outcome
    finally:
        view.close()
        if place is not None:
            place.close()


def _facts(config: AnyRunConfig, parts: Parts, run: RunDirectory, source: str) -> RunFacts:
    spec = parts.factory.spec
    frames = total_env_steps(config, parts.factory) * spec.frames_per_step
    goals = [f"{frames:,} frames"]
    if config.minutes is not None:
        goals.append(f"{config.minutes:g} minutes")
    if config.until_return is not None:
        goals.append(f"a mean return of {config.until_return:g}")
    tasks = f", {spec.num_tasks} {'roles' if spec.seats else 'tasks'}" if spec.num_tasks > 1 else ""
    environments = config.env.envs_per_task * (1 if spec.seats else spec.num_tasks)
    learning = parts.algorithm.describe(spec)
    generators = ""
    if shares_generators(parts.factory):
        whose = "each actor's process" if config.runtime.place == "ray" else "this process"
        generators = f"; they share the random generators of {whose}, seeded once"
    return RunFacts(
        name=str(run.path),
        algorithm=f"{config.algorithm} ({source})",
        environment=f"{config.environment}{tasks}, {environments} environments, "
        f"place {config.runtime.place}{generators}",
        protocol=", ".join(f"{name} {value}" for name, value in spec.protocol.items()) or "as the environment comes",
        network=learning.network,
        rewards=learning.rewards,
        machine=parts.machine.line(),
        goal=" or ".join(goals),
    )


def file_name(name: str) -> str:
    """An environment's or a task's name as part of a file's or folder's name."""
    short = name if name.count(",") < 3 else f"{name.count(',') + 1}games"
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in short)


class LoadedRun(NamedTuple):
    """A run's policy and what it belongs to."""

    policy: Policy
    config: AnyRunConfig
    parts: Parts
    run: RunDirectory
    checkpoint: Checkpoint


def load_run(path: Path, best: bool = False) -> LoadedRun:
    """The policy of a run's latest checkpoint, or of its best one.

    Raises:
        UserError: no run, no good checkpoint, or no best one.
    """
    run = RunDirectory.open(path)
    config = config_for_acting(run.path)
    parts = build_parts(config)
    if best:
        named = run.best()
        if named is None:
            raise UserError(f"run '{path}' has no best checkpoint: it was trained without --eval-every, or it is gone")
        checkpoint = _good(load_from(run.checkpoint_path(named.step)))
    else:
        checkpoint = _good(run.latest())
    own_state(checkpoint, config, parts.factory.spec)
    policy = policy_maker(config, parts)()
    policy.load_tensors(checkpoint.tensors["model"])
    return LoadedRun(policy, config, parts, run, checkpoint)


def evaluate_run(
    path: Path,
    episodes: int = 30,
    games: Sequence[str] = (),
    seed: int = 0,
    best: bool = False,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Score a run; the result is also written to its ``report`` folder.

    Args:
        path: run directory.
        episodes: per task.
        games: tasks to play, one each or joined by commas; empty for all.
        seed: seeds the evaluation.
        best: the best checkpoint instead of the latest.
        progress: told (episodes finished, episodes in all).

    Raises:
        UserError: no such run, task or checkpoint.
        RunFailedError: an environment failed.
    """
    loaded = load_run(path, best)
    names = loaded.parts.factory.spec.tasks
    seed_shared_generators(loaded.parts.factory, seed)
    chosen = [name for game in games for name in game.split(",")]
    if twice := [game for game in dict.fromkeys(chosen) if chosen.count(game) > 1]:
        raise UserError(f"games: {', '.join(twice)} given more than once")
    with torch_threads(loaded.parts.machine.actor_threads):
        result = evaluate(
            loaded.parts.factory,
            loaded.policy,
            tasks=[task_index(game, names) for game in chosen] or range(len(names)),
            episodes=episodes,
            seed=seed,
            run=str(path),
            env_steps=loaded.checkpoint.step,
            step_timeout_s=loaded.config.runtime.step_timeout_s,
            progress=progress,
        )
    result.save(loaded.run.report)
    return result


def task_index(name: str, tasks: Sequence[str]) -> int:
    """Where a task stands among a run's.

    Raises:
        UserError: the run has no such task; names the nearest.
    """
    if name not in tasks:
        raise UserError(f"the run has no task {name!r}{nearest(name, tasks) or '; it has ' + ', '.join(tasks)}")
    return tasks.index(name)
