"""One session of a run, new or resumed: what the user sees, the place, the training loop."""

from __future__ import annotations

from machina.checkpoint import Checkpoint, RunDirectory
from machina.hardware import tune_process
from machina.jobs.ceiling import cached_ceiling
from machina.launch.configuration import AnyRunConfig
from machina.launch.ending import Outcome
from machina.launch.places import Place, open_place
from machina.launch.plan import Parts, seed_shared_generators, shares_generators, total_env_steps
from machina.launch.run_view import RunView
from machina.launch.training import Trainer
from machina.report.screen import RunFacts


def run_session(
    config: AnyRunConfig,
    parts: Parts,
    run: RunDirectory,
    checkpoint: Checkpoint | None,
    initial: Checkpoint | None,
    source: str,
) -> Outcome:
    """Train until the session ends.

    Args:
        config: the resolved configuration.
        parts: built from it.
        run: where everything is written.
        checkpoint: where to continue, or None for a new run.
        initial: whose policy starts a new run, or None.
        source: where the configuration's values come from; shown.

    Raises:
        UserError: something is unusable that shows only now, such as the cluster.
        RunFailedError: the run stopped for a fault; a checkpoint was written.
    """
    tune_process(parts.machine.learner_threads)
    seed_shared_generators(parts.factory, config.seed, 0 if checkpoint is None else checkpoint.step)
    view = RunView(
        run_facts(config, parts, run, source),
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


def run_facts(config: AnyRunConfig, parts: Parts, run: RunDirectory, source: str) -> RunFacts:
    """What a run's first lines say."""
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
