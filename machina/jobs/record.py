"""Recording episodes: of a policy, a script or a person."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from machina.config import EnvConfig
from machina.demonstrations import Who, check_suits, load_set, write_episode
from machina.demonstrations.episode import SUFFIX
from machina.envs.builders import AtariFactory, full_action_space, parse_environment
from machina.envs.pictures import draw_without_display
from machina.errors import EnvironmentFaultError, RunFailedError, UserError
from machina.hardware import torch_threads
from machina.interfaces import EnvFactory, SlotEnv
from machina.jobs.film import frames_per_s
from machina.jobs.loaded_run import LoadedRun, load_run
from machina.jobs.match import scripted_players
from machina.launch.plan import seed_shared_generators
from machina.play.acting import ActingPlayer
from machina.play.key_maps import Keys, default_keys, load_keys
from machina.play.matches import Player, PolicyPlayer
from machina.play.person import PersonChooser
from machina.play.recording import AutomaticChooser, Chooser, StoppedError, play_episode
from machina.play.scripts import ScriptPlayer
from machina.play.timed import TimedFactory
from machina.plugins import load_function
from machina.specs import EnvSpec
from machina.streams import Stream

STEP_TIMEOUT_S = 60.0
"""Deadline of an env step where no run states one."""


class RecordingPlan(NamedTuple):
    """What is recorded, and who plays."""

    environment: str
    env: EnvConfig
    out: Path
    episodes: int
    """To be kept; a person may stop before."""
    seed: int
    wrapper: str | None = None
    policy: Path | None = None
    best: bool = False
    script: str | None = None
    person: bool = False
    """Takes turns with the policy or the script; plays alone where there is neither."""
    keys: Path | None = None
    pictures: bool = True
    window_scale: float | None = None


class Kept(NamedTuple):
    """An episode that was written."""

    file: Path
    episode_return: float
    length: int


class _Automatic(NamedTuple):
    """A policy or a script."""

    player: Player
    who: Who


def record(plan: RecordingPlan, told: Callable[[Kept], None] = lambda _: None) -> tuple[list[Kept], bool]:
    """Record episodes into a set, which may hold some already; each is written as soon as it is kept.

    Args:
        plan: what to record.
        told: called for every episode that was written.

    Returns:
        The episodes that were kept, and whether the recording was stopped, by Ctrl-C or by closing the window, in an
        episode that is lost.

    Raises:
        UserError: something is unusable: environment, run, script, keys, the display, the set.
        RunFailedError: the environment fails, or the disk does; what was kept before is there.
    """
    if plan.policy is not None and plan.script is not None:
        raise UserError(f"script={plan.script!r} and policy='{plan.policy}' both play; leave one out")
    draw_without_display()
    factory = parse_environment(plan.environment, plan.env, plan.wrapper)
    _check_single(factory.spec)
    taken = _taken_seeds(plan.out, factory.spec)
    run = None if plan.policy is None else _loaded(plan.policy, plan.best, factory.spec)
    automatic = _automatic(plan, factory.spec, run)
    keys = _keys(plan, factory) if plan.person or automatic is None else None
    timed = TimedFactory(factory, STEP_TIMEOUT_S if run is None else run.plan.config.runtime.step_timeout_s)
    seed_shared_generators(factory, plan.seed)
    names = {Who.PERSON: "person"} | ({} if automatic is None else {automatic.who: automatic.player.name})
    try:
        with torch_threads(1 if run is None else run.plan.machine.actor_threads):
            env = timed.make_for_video(0) if plan.pictures or keys is not None else timed.make([0])
            chooser = _chooser(plan, env, automatic, keys)
            try:
                return _record(plan, env, chooser, names, taken, told)
            finally:
                chooser.close()
                env.close()
    except EnvironmentFaultError as fault:
        raise RunFailedError(f"recording stopped: {fault}\n{fault.details}".rstrip()) from fault


def _chooser(plan: RecordingPlan, env: SlotEnv, automatic: _Automatic | None, keys: Keys | None) -> Chooser:
    spec = env.spec
    acting = None if automatic is None else ActingPlayer(automatic.player, spec, np.arange(1), env.task_ids, plan.seed)
    if keys is None:
        assert acting is not None
        assert automatic is not None  # a person plays where nobody else does
        return AutomaticChooser(acting, automatic.who)
    other = None if acting is None or automatic is None else (acting, automatic.who)
    title, steps_per_s = f"machina record {spec.name}", frames_per_s(spec, env.render_fps)
    return PersonChooser(keys, title, plan.window_scale, steps_per_s, other)


def _record(
    plan: RecordingPlan,
    env: SlotEnv,
    chooser: Chooser,
    names: dict[Who, str],
    taken: set[int],
    told: Callable[[Kept], None],
) -> tuple[list[Kept], bool]:
    steps_per_s = frames_per_s(env.spec, env.render_fps)
    kept: list[Kept] = []
    seeds = _seeds(plan.seed, taken)
    try:
        while len(kept) < plan.episodes and not chooser.stopped:
            episode, keeps = play_episode(env, next(seeds), chooser, pictures=plan.pictures)
            if keeps:
                file = write_episode(plan.out, episode.header(names, steps_per_s), episode.arrays())
                kept.append(Kept(file, episode.episode_return, episode.length))
                told(kept[-1])
    except (StoppedError, KeyboardInterrupt):
        return kept, True
    return kept, False


def _check_single(spec: EnvSpec) -> None:
    if spec.seats:
        raise UserError(f"environment {spec.name!r} has several agents; record an environment of one")
    if spec.num_tasks > 1:
        raise UserError(f"environment {spec.name!r} has {spec.num_tasks} tasks; record one, such as {spec.tasks[0]}")


def _taken_seeds(out: Path, spec: EnvSpec) -> set[int]:
    """Seeds of the episodes that the set holds already, so that none is played twice."""
    if not out.exists():
        return set()
    if not out.is_dir():
        raise UserError(f"out='{out}' is a file; name a folder")
    if not any(out.glob(f"*{SUFFIX}")):
        return set()
    demonstrations = load_set(out)
    check_suits(demonstrations, spec)
    return demonstrations.seeds


def _seeds(seed: int, taken: set[int]) -> Iterator[int]:
    """Seeds of the resets: the same for the same ``seed``, those of earlier episodes left out."""
    generator = np.random.default_rng([seed, Stream.RECORDING])
    while True:
        candidate = int(generator.integers(2**31))
        if candidate not in taken:
            yield candidate


def _automatic(plan: RecordingPlan, spec: EnvSpec, run: LoadedRun | None) -> _Automatic | None:
    """Who plays besides a person, or instead of one."""
    if run is not None:
        name = f"{plan.policy} at env step {run.checkpoint.step}"
        return _Automatic(PolicyPlayer(name, run.policy), Who.POLICY)
    if plan.script is None:
        return None
    built_in = scripted_players(spec)
    if plan.script in built_in:
        return _Automatic(built_in[plan.script], Who.SCRIPT)
    if ":" not in plan.script:
        raise UserError(f"script={plan.script!r}: must be {' or '.join(built_in)}, or module:function")
    generator = np.random.default_rng([plan.seed, Stream.RECORDING, 1])
    function = load_function(plan.script, "script")
    return _Automatic(ScriptPlayer(plan.script, function, spec.action, generator), Who.SCRIPT)


def _loaded(path: Path, best: bool, spec: EnvSpec) -> LoadedRun:
    run = load_run(path, best)
    theirs = run.plan.spec
    if (theirs.action, theirs.observation) != (spec.action, spec.observation):
        raise UserError(
            f"policy='{path}' was trained on {theirs.name} with other observations or actions than {spec.name} has "
            "here; leave the environment and its options out, the run knows them"
        )
    return run


def _keys(plan: RecordingPlan, factory: EnvFactory) -> Keys:
    spec = factory.spec
    if plan.keys is not None:
        return load_keys(plan.keys, spec.action)
    meanings: tuple[str, ...] = ()
    if isinstance(factory, AtariFactory):
        from machina.envs.atari import action_names

        meanings = action_names(spec.tasks[0], full=full_action_space(spec.tasks, factory.config))
    return default_keys(spec.name, spec.action, meanings)
