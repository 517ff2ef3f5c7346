"""One session of a run, new or resumed: what the user sees, the place, the training loop."""

from __future__ import annotations

from machina.checkpoint import Checkpoint, RunDirectory
from machina.hardware import tune_process
from machina.jobs.ceiling import cached_ceiling
from machina.launch.ending import Outcome
from machina.launch.places import Place, open_place
from machina.launch.plan import RunPlan, seed_shared_generators, shares_generators
from machina.launch.run_view import RunView
from machina.launch.training import Trainer
from machina.report.screen import RunFacts


def run_session(
    plan: RunPlan,
    run: RunDirectory,
    checkpoint: Checkpoint | None,
    initial: Checkpoint | None,
    source: str,
) -> Outcome:
    """Train until the session ends.

    Args:
        plan: the resolved configuration.
        run: where everything is written.
        checkpoint: where to continue, or None for a new run.
        initial: whose policy starts a new run, or None.
        source: where the configuration's values come from; shown.

    Raises:
        UserError: something is unusable that shows only now, such as the cluster.
        RunFailedError: the run stopped for a fault; a checkpoint was written.
    """
    tune_process(plan.machine.learner_threads)
    seed_shared_generators(plan.factory, plan.config.seed, 0 if checkpoint is None else checkpoint.step)
    view = RunView(
        run_facts(plan, run, source, 0 if checkpoint is None else checkpoint.step),
        plan.spec,
        plan.total_env_steps,
        plan.config.minutes,
        cached_ceiling(plan),
    )
    place: Place | None = None
    try:
        place = open_place(plan)
        trainer = Trainer(plan, place, run, view, checkpoint)
        if initial is not None:
            trainer.learners.load_initial(initial.tensors["model"], plan.config.init_value)
        outcome = trainer.run()
        league = plan.config.league.snapshot_updates is not None
        complete = outcome.env_steps >= plan.total_env_steps
        view.final(run.path, outcome.reason, trainer.episodes, league=league, complete=complete)
        return outcome
    finally:
        view.close()
        if place is not None:
            place.close()


def run_facts(plan: RunPlan, run: RunDirectory, source: str, done_env_steps: int) -> RunFacts:
    """What a run's first lines say, of which ``done_env_steps`` lie behind."""
    config, spec = plan.config, plan.spec
    frames = plan.total_env_steps * spec.frames_per_step
    behind = f" (schedules continue at {done_env_steps / plan.total_env_steps:.0%} of them)" if done_env_steps else ""
    goals = [f"{frames:,} frames{behind}"]
    if config.minutes is not None:
        goals.append(f"{config.minutes:g} minute{'s' * (config.minutes != 1)}")
    if config.until_return is not None:
        goals.append(f"a mean return of {config.until_return:g}")
    tasks = f", {spec.num_tasks} {'roles' if spec.seats else 'tasks'}" if spec.num_tasks > 1 else ""
    environments = config.env.envs_per_task * (1 if spec.seats else spec.num_tasks)
    learning = plan.algorithm.describe(spec)
    generators = ""
    if shares_generators(plan.factory):
        whose = "each actor's process" if config.runtime.place == "ray" else "this process"
        generators = f"; they share the random generators of {whose}, seeded once"
    return RunFacts(
        name=str(run.path),
        algorithm=f"{config.algorithm} ({source})",
        environment=f"{config.environment}{tasks}, {environments} environment{'s' * (environments > 1)}, "
        f"place {config.runtime.place}{generators}",
        protocol=", ".join(f"{name} {value}" for name, value in spec.protocol.items()) or "as the environment comes",
        network=learning.network,
        rewards=learning.rewards,
        machine=plan.machine.line(),
        goal=" or ".join(goals),
        exploration=learning.exploration,
        replay=learning.replay,
    )
