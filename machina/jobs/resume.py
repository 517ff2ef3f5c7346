"""`machina resume`: a run continues from its last good checkpoint."""

from __future__ import annotations

from pathlib import Path

from machina.checkpoint import Checkpoint, RunDirectory
from machina.errors import UserError
from machina.jobs.loaded_run import checked
from machina.jobs.session import run_session
from machina.launch.configuration import changed_config, saved_config
from machina.launch.ending import Outcome
from machina.launch.plan import RunPlan, plan_run
from machina.launch.saved_state import own_state
from machina.launch.sizes import check_batch_fills, check_memory
from machina.report.output import steady_output
from machina.yaml_files import to_yaml


def resume(path: Path, minutes: float | None = None, total_frames: int | None = None) -> tuple[RunDirectory, Outcome]:
    """Continue from a run's last good checkpoint.

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
        checkpoint = checked(run.latest())
        plan = plan_run(config)
        check_batch_fills(plan)
        check_memory(plan)
        own_state(checkpoint, config, plan.spec)
        if changes:
            _check_longer(plan, checkpoint)
            run.write_config(to_yaml(config))
        return run, run_session(plan, run, checkpoint, None, f"run {path}")


def _check_longer(plan: RunPlan, checkpoint: Checkpoint) -> None:
    """Refuse a schedule that is over.

    Raises:
        UserError: the run has learned from this many frames already.
    """
    if checkpoint.step >= plan.total_env_steps:
        learned = checkpoint.step * plan.spec.frames_per_step
        schedule = "its schedule" if plan.config.total_frames is None else f"total_frames={plan.config.total_frames}"
        raise UserError(f"{schedule}: the run has learned from {learned:,} frames already; give it more --total-frames")
