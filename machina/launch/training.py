"""The training loop: batches in, parameters out, and what must happen now and then."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from torch import Tensor

from machina.buffers.buffer import Batch
from machina.checkpoint import Checkpoint, CheckpointError, RunDirectory
from machina.checkpoint.status import Status, steady_clock
from machina.errors import RunFailedError, UserError, in_one_line
from machina.hardware import resident_memory
from machina.interfaces import LearnerState
from machina.launch.configuration import AnyRunConfig
from machina.launch.ending import Ending, Outcome, failure_of, nothing_learned
from machina.launch.evaluations import Evaluations
from machina.launch.not_finite import SkippedUpdates
from machina.launch.places import Place
from machina.launch.plan import Parts, total_env_steps
from machina.launch.progress import Means, Meter, Progress, account_metrics
from machina.launch.run_view import RunView
from machina.launch.saved_state import SavedState, identity_of, own_state
from machina.launch.self_play import League
from machina.launch.signals import handled_signals
from machina.learner.learner_group import Lost, Updated
from machina.metrics import EpisodeTracker, MetricsWriter, TimeShares
from machina.types import Array

LOOK_S = 1.0
"""How often the run writes its status and hears requests."""

POLL_S = 0.2
"""How long the loop waits for a batch before it looks at signals and the live view."""


class Trainer:
    """Runs one job in one run directory.

    Args:
        config: the resolved configuration.
        parts: built from it.
        place: makes the plane and the learner group.
        run: where everything is written.
        view: what the user watches.
        checkpoint: where to go on, or None for a new run.
    """

    def __init__(
        self,
        config: AnyRunConfig,
        parts: Parts,
        place: Place,
        run: RunDirectory,
        view: RunView,
        checkpoint: Checkpoint | None,
    ) -> None:
        self._config = config
        self._parts = parts
        self._run = run
        self._view = view
        self._spec = parts.factory.spec
        self._total_env_steps = total_env_steps(config, parts.factory)
        self._place = place
        self._league: League | None = None
        state = None if checkpoint is None else own_state(checkpoint, config, self._spec)
        if config.league.snapshot_updates is not None:
            # Before anything starts that would have to be ended: it may be refused.
            self._league = League(config, parts, run, place, view.notice, beside=config.runtime.place != "inline")
            if state is not None and state.league is not None:
                self._league.load_state(state.league)
        self._plane = place.make_plane()
        self._ending = Ending(config, self._total_env_steps)
        self.learners = place.make_learners(self._note_learner_fault, self._ending.is_due)
        self.episodes = EpisodeTracker(self._spec.num_tasks)
        self.progress = Progress(next_evaluation=config.eval_every or 0)
        self._shares = TimeShares()
        self._means = Means()
        self._meter = Meter()
        self._skipped = SkippedUpdates(run.path, self.learners.skipped_batch)
        self._evaluations = Evaluations(place, run, view.notice, self._ending, self._log, self._shares)
        self._plane_state: dict[str, Array] = {}
        self._submitted: Batch | None = None  # to the learner, which has not answered
        self._has_begun = False  # the actors: not where a run only waits for ratings
        self._is_new = checkpoint is None
        if checkpoint is not None and state is not None:
            self._load(checkpoint, state)
        self._metrics = MetricsWriter(run.path, None if checkpoint is None else checkpoint.step)
        self._before = self.progress
        view.elapsed_before_s = self._before.elapsed_s

    def _note_learner_fault(self, message: str) -> None:
        self._view.notice(message)
        self._run.log_fault(message, "")

    # Saving and restoring

    def _load(self, checkpoint: Checkpoint, state: SavedState) -> None:
        tensors = dict(checkpoint.tensors)
        plane = {name: tensor.numpy() for name, tensor in tensors.pop("plane").items()}
        self._plane_state = plane if self._league is None else self._league.playable(plane)
        self.learners.load_state(LearnerState(tensors, state.learner))
        self.episodes.load_state(state.episodes.model_dump())
        progress = Progress(**state.progress.model_dump())
        self.progress = progress._replace(unrolls_lost=progress.unrolls_lost + state.unrolls_at_hand)

    def save(self) -> None:
        """Write a checkpoint of this moment."""
        self._take(self.learners.drain())
        state = self.learners.state()
        progress = self._now()
        values: dict[str, Any] = {
            "identity": identity_of(self._config, self._spec).model_dump(mode="json"),
            "protocol": self._spec.protocol,
            "learner": state.values,
            "episodes": self.episodes.state(),
            "progress": progress._asdict(),
            "unrolls_at_hand": self._plane.unrolls_at_hand() if self._has_begun else 0,
        }
        if self._league is not None:
            values["league"] = self._league.state()
            self._league.write_table()
        plane = self._plane.state() if self._has_begun else self._plane_state
        tensors: dict[str, Mapping[str, Tensor | Array]] = {**state.tensors, "plane": plane}
        keep = self._config.keep_checkpoints
        self._view.checkpoint = self._run.save(progress.env_steps, tensors, values, keep, self._view.notice)
        self._saved_at = time.monotonic()

    def _now(self) -> Progress:
        """The counters with what this session added."""
        stats = self._plane.stats()
        in_ratings = 0 if self._league is None else self._league.faults
        return self.progress._replace(
            elapsed_s=self._before.elapsed_s + self._ending.session_s,
            faults=self._before.faults + stats.faults + in_ratings,
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
                rated = self._league is not None and self._wait_for_ratings(self._league)
                if self._is_new or self._has_learned or rated:
                    self.save()
                if self._has_begun and not self._has_learned and not self._ending.interrupted:
                    raise nothing_learned(reason, self._plane, self._parts.batch_size, self._run)
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
        return Outcome(reason, self.progress.env_steps, self.progress.updates)

    def _train(self) -> str:
        """The loop; returns why it ended."""
        if self._league is not None:
            self._plane.store.set_opponents(self._league.view())
        self._plane.publish(self.progress.updates, self.learners.parameters())
        self._plane.start(self._plane_state)
        self._has_begun = True
        self._meter.restart(self.progress, self._seconds())
        while self._ending.reason is None:
            updates = self.progress.updates
            with self._shares.measure("learner_waiting"):
                batch = self._plane.next_batch(POLL_S)
            if batch is not None:
                self._learn(batch)
            else:  # actors may be waiting for the parameters of an update under way
                self._take(self.learners.drain())
            self._now_and_then()
            if self.progress.updates > updates:  # else a checkpoint has no news, and inline would cut a round in two
                self._save_if_due()
        return self._ending.reason

    def _look_for_end(self) -> str | None:
        return self._ending.look(self.progress.env_steps, self.episodes.window_return())

    def _wait_for_ratings(self, league: League) -> bool:
        """The last snapshots would have none; returns whether there were any. A signal or `--minutes` ends the wait."""
        if not league.unrated:
            return False
        if self._has_learned:
            self.save()
        self._view.notice(f"waiting for the ratings of {league.unrated} snapshots; machina resume can make up for it")
        rated = False
        while league.unrated and not self._ending.is_due():
            rated |= league.collect()
            self._look_around_if_due()
            time.sleep(POLL_S)
        return rated

    @property
    def _has_learned(self) -> bool:
        """Whether this session made an update."""
        return self.progress.updates > self._before.updates

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
            batch, made = self._submitted, self.learners.state().values.get("updates")
            if batch is not None and made == self.progress.updates + 1:  # its parameters could not be handed over
                self._advance(batch.num_slots)
            self._save_or_notice("the run ends here")
        except Exception as error:
            self._view.notice(f"no checkpoint of this moment ({in_one_line(error)}); those before it are good")

    def _end_session(self) -> None:
        """Tell the last faults, write the last metrics and close everything."""
        try:
            self._tell_faults()
            if not self._means.empty:
                self._log()
            with suppress(RunFailedError):  # a cluster without its head has no nodes to tell of
                self._run.write_status(self._status(ended=self._ending.reason or "a fault"))
        finally:
            self._metrics.close()
            if self._league is not None:
                self._league.close()
            self._plane.close()
            self.learners.close()

    def _learn(self, batch: Batch) -> None:
        self._submitted = batch
        with self._shares.measure("learning"):
            answers = self.learners.submit(batch, self._done())
        self._submitted = None
        self._take(answers)

    def _done(self) -> float:
        """Share of the run that lies behind when the next batch is learned from: after those under way."""
        under_way: int = self.learners.under_way * self._config.algo.unroll_length
        return (self.progress.env_steps + under_way) / self._total_env_steps

    def _advance(self, num_slots: int) -> None:
        self.progress = self.progress.after_update(num_slots * self._config.algo.unroll_length)

    def _take(self, answers: list[Updated | Lost]) -> None:
        """Count what the learner group has finished, and publish its parameters."""
        for answer in answers:
            if isinstance(answer, Updated):
                self._count(answer)
            else:
                self._plane.queue.settle(answer.batch, lost=answer.batch.num_slots)
        if any(isinstance(answer, Lost) for answer in answers):
            self._plane.publish(self.progress.updates, self.learners.parameters())

    def _count(self, updated: Updated) -> None:
        batch, learned = updated.batch, updated.learned
        lags = self.progress.updates - batch.policy_versions
        self._plane.queue.settle(batch, learned.lost)
        self._advance(batch.num_slots - learned.lost)
        if self._league is not None:
            # Once per update, before its parameters are published: then a lock-step league repeats.
            changed = self._league.record(self._plane.drain_games())
            if self._league.is_due(self.progress.updates):
                self._league.add_snapshot(self.progress.updates, self.progress.env_steps, updated.parameters)
                changed = True
            if changed:
                self._plane.store.set_opponents(self._league.view())
        self._plane.publish(self.progress.updates, updated.parameters)
        metrics = {
            **learned.metrics,
            "learner/skipped": float(learned.skipped),
            "learner/passes": learned.passes,
            "actor/policy_lag_mean": float(lags.mean()),
            "actor/policy_lag_max": float(lags.max()),
        }
        self._means.add(metrics)
        self._view.latest = metrics
        self._skipped.note(learned.skipped, self.progress.env_steps)

    def _now_and_then(self) -> None:
        """Everything that is not learning: episodes, log, evaluation, checkpoint, and whether to stop."""
        for episode in self._plane.drain_episodes():
            self.episodes.record(episode)
        if self._league is not None:
            self._league.collect()
        else:
            deque(self._plane.drain_games(), maxlen=0)  # who won counts in a league only
        self._tell_faults()
        self._look_for_end()
        self._look_around_if_due()
        if not self._has_learned:
            self._view.starting(self._plane.stats(), self._plane.total_slots)
            self._meter.restart(self.progress, self._seconds())
            return
        self._view.refresh(self._now(), self._seconds(), self.episodes)
        if self._meter.age_s >= self._config.log_seconds and not self._means.empty:  # else there is no news
            self._log()
        self._evaluate_if_due()

    def _save_if_due(self) -> None:
        if time.monotonic() - self._saved_at >= 60 * self._config.checkpoint_minutes:
            self._save_or_notice("the run goes on")

    def _tell_faults(self) -> None:
        for fault in self._plane.drain_faults():
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
        """Say how the run does, and hear whether it is to be scaled."""
        self._run.write_status(self._status())
        if self._league is not None:
            self._view.league = self._league.table()
        try:
            actors = self._run.take_request()
            if actors is None:
                return
            self._plane.scale(actors)
            self._view.notice(f"{actors} actors from now on")
        except UserError as error:
            self._view.notice(str(error))

    def _status(self, ended: str | None = None) -> Status:
        """What `machina status` shows."""
        boot, since_boot_s = steady_clock()
        stats, progress = self._plane.stats(), self._now()
        return Status(
            time=time.time(),
            boot=boot,
            since_boot_s=since_boot_s,
            pid=os.getpid(),
            ended=ended,
            env_steps=progress.env_steps,
            updates=progress.updates,
            account=stats.account,
            policy_lag_mean=self._view.latest.get("actor/policy_lag_mean"),
            policy_lag_max=self._view.latest.get("actor/policy_lag_max"),
            env_steps_per_s=self._meter.speeds(progress, self._seconds()).env_steps_per_s,
            faults=progress.faults,
            learner_ranks=self._config.runtime.learners,
            learner_restarts=self.learners.restarts,
            nodes=tuple(self._place.nodes()),
            actors=stats.actors,
        )

    def _seconds(self) -> dict[str, float]:
        return self._plane.stats().shares | self._shares.seconds()

    def _log(self, extra: dict[str, float] | None = None) -> None:
        progress, seconds = self._now(), self._seconds()
        speeds = self._meter.speeds(progress, seconds)
        self._meter.restart(progress, seconds)
        if self._league is not None:
            self._league.write_table()
        frames_per_step = self._spec.frames_per_step
        values = {
            **speeds.metrics(frames_per_step),
            "process/memory_gib": resident_memory() / 2**30,
            **account_metrics(self._plane.stats().account, self._means.take()),
            **progress.fault_metrics(),
            "faults/learner_restarts": self.learners.restarts,
            "faults/updates_undone": self.learners.updates_undone,
            **self.episodes.metrics(self._spec.tasks),
            **({} if self._league is None else self._league.metrics()),
            **(extra or {}),
        }
        self._metrics.write(values, progress.env_steps, progress.env_steps * frames_per_step, progress.elapsed_s)

    def _evaluate_if_due(self) -> None:
        self._evaluations.collect()
        every, frames = self._config.eval_every, self.progress.env_steps * self._spec.frames_per_step
        if every is None or self._evaluations.is_under_way or frames < self.progress.next_evaluation:
            return
        self.progress = self.progress._replace(next_evaluation=frames + every)
        self._save_or_notice("the run goes on")
        self._evaluations.begin(self.learners.parameters(), self.progress.env_steps)
