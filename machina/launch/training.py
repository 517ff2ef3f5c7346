"""A session of a run: the learning loop, and what must happen now and then."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from torch import Tensor

from machina.checkpoint import Checkpoint, CheckpointError, RunDirectory
from machina.checkpoint.status import Status, steady_clock
from machina.errors import RunFailedError, UserError, in_one_line
from machina.hardware import resident_memory
from machina.interfaces import LearnerState
from machina.launch.ending import Ending, Outcome, failure_of, nothing_learned
from machina.launch.evaluations import Evaluations
from machina.launch.hooks import RunHook, SelfPlayHook
from machina.launch.learning_loop import LearningLoop
from machina.launch.not_finite import SkippedUpdates
from machina.launch.places import Place
from machina.launch.plan import RunPlan
from machina.launch.progress import Means, Meter, Progress, account_metrics
from machina.launch.run_view import RunView
from machina.launch.saved_state import SavedState, identity_of, own_state
from machina.launch.self_play import League
from machina.launch.signals import handled_signals
from machina.learner.learner_group import Updated
from machina.metrics import EpisodeTracker, MetricsWriter
from machina.types import Array, IntArray

LOOK_S = 1.0
"""How often the run writes its status and hears requests."""

POLL_S = 0.2
"""How long the loop waits for a batch before it looks at signals and the live view."""


class Trainer:
    """Runs one job in one run directory.

    Args:
        plan: the resolved configuration.
        place: makes the actors and the learner group.
        run: where everything is written.
        view: what the user watches.
        checkpoint: where to continue, or None for a new run.
    """

    def __init__(
        self, plan: RunPlan, place: Place, run: RunDirectory, view: RunView, checkpoint: Checkpoint | None
    ) -> None:
        config = plan.config
        self._plan = plan
        self._config = config
        self._run = run
        self._view = view
        self._lags: IntArray | None = None  # policy lags of the newest update's batch
        self._spec = plan.spec
        self._place = place
        state = None if checkpoint is None else own_state(checkpoint, config, self._spec)
        # Before anything starts that would have to be ended: it may be refused.
        self._hook = _hook(plan, place, run, view, state)
        self._actors = place.make_actors()
        self._ending = Ending(config, plan.total_env_steps)
        self.learners = place.make_learners(self._note_learner_fault, self._ending.is_due)
        self._loop = LearningLoop(
            self._actors,
            self.learners,
            total_env_steps=plan.total_env_steps,
            lock_step=config.runtime.lock_step,
            on_update=self._note_update,
        )
        self.episodes = EpisodeTracker(self._spec.num_tasks)
        self._before = Progress(next_evaluation=config.eval_every or 0)
        """The counters of former sessions; ``progress`` has those of now."""
        self._means = Means()
        self._meter = Meter()
        self._skipped = SkippedUpdates(run.path, self.learners.skipped_batch)
        self._evaluations = Evaluations(place, run, view.notice, self._ending, self._log, self._loop.shares)
        self._actors_state: dict[str, Array] = {}
        self._has_begun = False  # the actors: not where a run only waits for ratings
        self._is_new = checkpoint is None
        if checkpoint is not None and state is not None:
            self._load(checkpoint, state)
        self._metrics = MetricsWriter(run.path, None if checkpoint is None else checkpoint.step)
        view.elapsed_before_s = self._before.elapsed_s

    def _note_learner_fault(self, message: str) -> None:
        self._view.notice(message)
        self._run.log_fault(message, "")

    # Saving and restoring

    def _load(self, checkpoint: Checkpoint, state: SavedState) -> None:
        tensors = dict(checkpoint.tensors)
        saved = {name: tensor.numpy() for name, tensor in tensors.pop("plane").items()}
        self._actors_state = self._hook.playable(saved)
        self.learners.load_state(LearnerState(tensors, state.learner))
        self.episodes.load_state(state.episodes.model_dump())
        progress = Progress(**state.progress.model_dump())
        self._before = progress._replace(unrolls_lost=progress.unrolls_lost + state.unrolls_at_hand)
        self._loop.continue_from(progress.env_steps, progress.updates)
        if self._config.algo.learns_again and not state.replay:
            self._view.notice("the replay was not saved (save_replay): it starts empty")
        kept = {piece.part: functools.partial(self._run.pieces.read, piece, checkpoint.path) for piece in state.replay}
        self._actors.buffer.resume(progress.env_steps, kept)

    def save(self) -> None:
        """Write a checkpoint of this moment."""
        self._loop.drain()
        state = self.learners.state()
        progress = self.progress
        values: dict[str, Any] = {
            "identity": identity_of(self._config, self._spec).model_dump(mode="json"),
            "protocol": self._spec.protocol,
            "learner": state.values,
            "episodes": self.episodes.state(),
            "progress": progress._asdict(),
            "unrolls_at_hand": self._actors.group.unrolls_at_hand() if self._has_begun else 0,
            **self._hook.state(),
        }
        self._hook.write()
        actors = self._actors.group.state() if self._has_begun else self._actors_state
        tensors: dict[str, Mapping[str, Tensor | Array]] = {**state.tensors, "plane": actors}
        keep, visit_parts = self._config.keep_checkpoints, self._actors.buffer.visit_parts
        parts = visit_parts if self._plan.saves_replay else None
        self._view.checkpoint = self._run.save(progress.env_steps, tensors, values, keep, self._view.notice, parts)
        self._saved_at = time.monotonic()

    @property
    def progress(self) -> Progress:
        """The counters with what this session added."""
        stats = self._actors.group.stats()
        return self._before._replace(
            env_steps=self._loop.env_steps,
            updates=self._loop.updates,
            elapsed_s=self._before.elapsed_s + self._ending.session_s,
            faults=self._before.faults + stats.faults + self._hook.faults,
            env_steps_cut=self._before.env_steps_cut + stats.env_steps_cut,
        )

    # The loop

    def run(self) -> Outcome:
        """Train until the schedule ends, a goal is met, or a signal comes; a checkpoint is written last.

        Raises:
            UserError: an environment can't be built, before anything was learned.
            CheckpointError: the last checkpoint can't be written; those before it are good.
            RunFailedError: an actor, the learner or anything else failed for good, and a checkpoint was written; or
                nothing was learned.
        """
        self._ending.begin()
        self._saved_at = self._looked_at = time.monotonic()
        with handled_signals(self._ending.request):
            try:
                reason = self._look_for_end() or self._train()
                rated = self._finish_hook()
                if self._is_new or self._has_learned or rated:
                    self.save()
                if self._has_begun and not self._has_learned and not self._ending.interrupted:
                    raise nothing_learned(reason, self._actors, self._plan.batch_size, self._run)
            except CheckpointError:
                raise
            except BaseException as error:
                if self._has_learned:
                    self._rescue()
                failure = failure_of(error, self._run, has_learned=self._has_learned)
                if failure is error:
                    raise
                raise failure from error
            finally:
                self._end_session()
        return Outcome(reason, self._loop.env_steps, self._loop.updates)

    def _train(self) -> str:
        """The loop; returns why it ended."""
        self._hook.started(self._actors)
        self._loop.begin()
        self._actors.group.start(self._actors_state)
        self._has_begun = True
        self._meter.restart(self.progress, self._seconds())
        while self._ending.reason is None:
            updates = self._loop.updates
            self._loop.turn(POLL_S)
            self._now_and_then()
            if self._loop.updates > updates:  # else a checkpoint has no news, and inline would cut a round in two
                self._save_if_due()
        return self._ending.reason

    def _look_for_end(self) -> str | None:
        return self._ending.look(self._loop.env_steps, self.episodes.window_return())

    def _finish_hook(self) -> bool:
        """The last snapshots would have no ratings; whether there were any. A signal or `--minutes` ends the wait."""
        if not self._hook.unfinished:
            return False
        if self._has_learned:
            self.save()
        snapshots = self._hook.unfinished
        self._view.notice(f"waiting for the ratings of {snapshots} snapshots; machina resume can do that later")
        rated = False
        while self._hook.unfinished and not self._ending.is_due():
            rated |= self._hook.now_and_then()
            self._look_around_if_due()
            time.sleep(POLL_S)
        return rated

    @property
    def _has_learned(self) -> bool:
        """Whether this session made an update."""
        return self._loop.updates > self._before.updates

    def _save_or_notice(self, otherwise: str) -> None:
        """Write a checkpoint; when the disk refuses, say so and what follows."""
        self._saved_at = time.monotonic()
        try:
            self.save()
        except CheckpointError as error:
            self._view.notice(f"{error}; {otherwise}")

    # The ways out

    def _rescue(self) -> None:
        """Write a checkpoint of a run that failed, if what failed leaves one to be written."""
        try:
            self._loop.count_unpublished(self.learners.state().values.get("updates", -1))
            self._save_or_notice("the run ends here")
        except Exception as error:
            self._view.notice(f"no checkpoint of this moment ({in_one_line(error)}); those before it are good")

    def _end_session(self) -> None:
        """Report the last faults, write the last metrics and close everything."""
        try:
            self._tell_faults()
            if not self._means.empty:
                self._log()
            with suppress(RunFailedError):  # a cluster without its head has no nodes to list
                self._run.write_status(self._status(ended=self._ending.reason or "a fault"))
        finally:
            self._metrics.close()
            self._hook.close()
            self._actors.group.close()
            self.learners.close()

    def _note_update(self, updated: Updated, lags: IntArray) -> None:
        """What follows from an update before its parameters are published."""
        learned, self._lags = updated.learned, lags
        self._hook.updated(updated, self._loop.updates, self._loop.env_steps)
        metrics = {
            **learned.metrics,
            "learner/skipped": float(learned.skipped),
            "learner/passes": learned.passes,
            "actor/policy_lag_mean": float(lags.mean()),
            "actor/policy_lag_max": float(lags.max()),
        }
        self._means.add(metrics)
        self._view.latest = metrics
        self._skipped.note(learned.skipped, self._loop.env_steps)

    def _now_and_then(self) -> None:
        """Everything that is not learning: episodes, log, evaluation, checkpoint, and whether to stop."""
        for episode in self._actors.group.drain_episodes():
            self.episodes.record(episode)
        self._hook.now_and_then()
        self._tell_faults()
        self._look_for_end()
        self._look_around_if_due()
        if not self._has_learned:
            self._view.starting(self._actors.group.stats(), self._actors.group.total_slots)
            self._meter.restart(self.progress, self._seconds())
            return
        self._view.refresh(self.progress, self._seconds(), self.episodes)
        if self._meter.age_s >= self._config.log_seconds and not self._means.empty:  # else there is no news
            self._log()
        self._evaluate_if_due()

    def _save_if_due(self) -> None:
        if time.monotonic() - self._saved_at >= 60 * self._config.checkpoint_minutes:
            self._save_or_notice("the run continues")

    def _tell_faults(self) -> None:
        for fault in self._actors.group.drain_faults():
            if fault.is_remark:
                self._view.notice(fault.message)
                continue
            self._view.notice(f"replaced: {fault.message}")
            self._run.log_fault(fault.message, fault.details)

    def _look_around_if_due(self) -> None:
        if time.monotonic() - self._looked_at >= LOOK_S:
            self._looked_at = time.monotonic()
            self._look_around()

    def _look_around(self) -> None:
        """Say how the run is doing, and see whether it is to be scaled."""
        self._run.write_status(self._status())
        self._view.league = self._hook.table()
        try:
            actors = self._run.take_request()
            if actors is None:
                return
            self._actors.group.scale(actors)
            self._view.notice(f"{actors} actors from now on")
        except UserError as error:
            self._view.notice(str(error))

    def _status(self, ended: str | None = None) -> Status:
        """What `machina status` shows."""
        boot, since_boot_s = steady_clock()
        stats, progress = self._actors.group.stats(), self.progress
        return Status(
            time=time.time(),
            boot=boot,
            since_boot_s=since_boot_s,
            pid=os.getpid(),
            ended=ended,
            env_steps=progress.env_steps,
            updates=progress.updates,
            account=self._actors.buffer.account(),
            policy_lag_mean=None if self._lags is None else float(self._lags.mean()),
            policy_lag_max=None if self._lags is None else float(self._lags.max()),
            env_steps_per_s=self._meter.speeds(progress, self._seconds()).env_steps_per_s,
            faults=progress.faults,
            learner_ranks=self._config.runtime.learners,
            learner_restarts=self.learners.restarts,
            nodes=tuple(self._place.nodes()),
            actors=stats.actors,
        )

    def _seconds(self) -> dict[str, float]:
        return self._actors.group.stats().shares | self._loop.shares.seconds()

    def _log(self, extra: dict[str, float] | None = None) -> None:
        progress, seconds = self.progress, self._seconds()
        speeds = self._meter.speeds(progress, seconds)
        self._meter.restart(progress, seconds)
        self._hook.write()
        frames_per_step = self._spec.frames_per_step
        values = {
            **speeds.metrics(frames_per_step),
            "process/memory_gib": resident_memory() / 2**30,
            **account_metrics(self._actors.buffer.account(), self._means.take()),
            **self._actors.buffer.metrics(),
            **progress.fault_metrics(),
            "faults/learner_restarts": self.learners.restarts,
            "faults/updates_undone": self.learners.updates_undone,
            **self.episodes.metrics(self._spec.tasks),
            **self._hook.metrics(),
            **(extra or {}),
        }
        self._metrics.write(values, progress.env_steps, progress.env_steps * frames_per_step, progress.elapsed_s)

    def _evaluate_if_due(self) -> None:
        self._evaluations.collect()
        every, frames = self._config.eval_every, self._loop.env_steps * self._spec.frames_per_step
        if every is None or self._evaluations.is_under_way or frames < self._before.next_evaluation:
            return
        self._before = self._before._replace(next_evaluation=frames + every)
        self._save_or_notice("the run continues")
        self._evaluations.begin(self.learners.parameters(), self._loop.env_steps)


def _hook(plan: RunPlan, place: Place, run: RunDirectory, view: RunView, state: SavedState | None) -> RunHook:
    """What the run does besides learning.

    Raises:
        UserError: a league of an environment that is no game of two teams.
    """
    if plan.config.league.snapshot_updates is None:
        return RunHook()
    league = League(plan, run, place, view.notice, beside=plan.config.runtime.place != "inline")
    if state is not None and state.league is not None:
        league.load_state(state.league)
    return SelfPlayHook(league)
