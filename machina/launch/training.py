"""The training loop: batches in, parameters out, and what must happen now and then."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save
from torch import Tensor

from machina.checkpoint import Checkpoint, CheckpointError, RunDirectory
from machina.checkpoint.files import write_atomically
from machina.errors import RunFailedError, UserError
from machina.interfaces import LearnerState
from machina.launch.configuration import AnyRunConfig
from machina.launch.evaluation import evaluate
from machina.launch.parts import Parts, build_plane, policy_maker, total_env_steps
from machina.launch.progress import Means, Meter, Progress
from machina.launch.watching import RunView
from machina.metrics import EpisodeTracker, MetricsWriter, TimeShares
from machina.runtime.hardware import resident_memory
from machina.runtime.unrolls import num_slots, to_arrays
from machina.types import Array, Unroll

MOST_SKIPPED_UPDATES = 10
"""Updates in a row that may be skipped for NaN before the run stops."""

POLL_S = 0.2
"""How long the loop waits for a batch before it looks at signals and the live view."""


class Outcome(NamedTuple):
    """How a run ended."""

    reason: str
    env_steps: int
    updates: int


class Trainer:
    """Runs one job in one run directory.

    Args:
        config: the resolved configuration.
        parts: built from it.
        run: where everything is written.
        view: what the user watches.
        checkpoint: where to go on, or None for a new run.
    """

    def __init__(
        self, config: AnyRunConfig, parts: Parts, run: RunDirectory, view: RunView, checkpoint: Checkpoint | None
    ) -> None:
        self._config = config
        self._parts = parts
        self._run = run
        self._view = view
        self._spec = parts.factory.spec
        self._total_env_steps = total_env_steps(config, parts.factory)
        self.learner = parts.algorithm.make_learner(
            self._spec, self._total_env_steps, config.runtime.device, config.runtime.precision, config.seed
        )
        self._plane = build_plane(config, parts)
        self.episodes = EpisodeTracker(self._spec.num_tasks)
        self.progress = Progress(next_evaluation=config.eval_every or 0)
        self._shares = TimeShares()
        self._means = Means()
        self._meter = Meter()
        self._skipped_in_a_row = 0
        self._stop_reason: str | None = None
        self._interrupted = False
        self._plane_state: dict[str, Array] = {}
        self._is_new = checkpoint is None
        if checkpoint is not None:
            self._load(checkpoint)
        self._metrics = MetricsWriter(run.path, None if checkpoint is None else checkpoint.step)
        self._before = self.progress

    # Saving and restoring

    def _load(self, checkpoint: Checkpoint) -> None:
        tensors = dict(checkpoint.tensors)
        self._plane_state = {name: tensor.numpy() for name, tensor in tensors.pop("plane").items()}
        self.learner.load_state(LearnerState(tensors, checkpoint.values["learner"]))
        self.episodes.load_state(checkpoint.values["episodes"])
        progress = Progress(**checkpoint.values["progress"])
        lost = progress.unrolls_lost + checkpoint.values["unrolls_at_hand"]
        self.progress = progress._replace(unrolls_lost=lost)

    def save(self) -> None:
        """Write a checkpoint of this moment."""
        state = self.learner.state()
        progress = self._now()
        values: dict[str, Any] = {
            "learner": state.values,
            "episodes": self.episodes.state(),
            "progress": progress._asdict(),
            "protocol": self._spec.protocol,
            "unrolls_at_hand": self._plane.unrolls_at_hand(),
        }
        tensors: dict[str, Mapping[str, Tensor | Array]] = {**state.tensors, "plane": self._plane.state()}
        self._view.checkpoint = self._run.save(progress.env_steps, tensors, values, self._config.keep_checkpoints)
        self._saved_at = time.monotonic()

    def _now(self) -> Progress:
        """The counters with what this session added."""
        stats = self._plane.stats()
        return self.progress._replace(
            elapsed_s=self._before.elapsed_s + time.monotonic() - self._started,
            faults=self._before.faults + stats.faults,
            env_steps_cut=self._before.env_steps_cut + stats.env_steps_cut,
        )

    # The loop

    def run(self) -> Outcome:
        """Train until the schedule ends, a goal is met, or a signal comes; a checkpoint is written last.

        Raises:
            UserError: an environment can't be built.
            CheckpointError: the last checkpoint can't be written; those before it are good.
            RunFailedError: an actor or the learner failed for good; a checkpoint was written.
        """
        self._started = self._saved_at = time.monotonic()
        self._stop_reason = self._goal_met(self._started)
        with _signals(self._request_stop):
            try:
                reason = self._stop_reason or self._train()
                if self._is_new or self._has_learned:
                    self.save()
            except CheckpointError:
                raise
            except RunFailedError:
                if self._has_learned:
                    self._save_or_notice("the run ends here")
                raise
            finally:
                self._end_session()
        return Outcome(reason, self.progress.env_steps, self.progress.updates)

    def _train(self) -> str:
        """The loop; returns why it ended."""
        self._plane.publish(self.progress.updates, self.learner.flat_parameters())
        self._plane.start(self._plane_state)
        self._meter.restart(self.progress, self._seconds())
        while self._stop_reason is None:
            with self._shares.measure("learner_waiting"):
                batch = self._plane.next_batch(POLL_S)
            if batch is not None:
                self._learn(batch)
            self._now_and_then()
        return self._stop_reason

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

    def _end_session(self) -> None:
        """Write the last metrics and close everything."""
        try:
            if not self._means.empty:
                self._log()
        finally:
            self._metrics.close()
            self._plane.close()

    def _learn(self, batch: Unroll[Array]) -> None:
        lags = self.progress.updates - batch.policy_version
        with self._shares.measure("learning"):
            metrics = self.learner.update(batch)
        steps = num_slots(batch) * (len(batch.reward) - 1)
        self.progress = self.progress._replace(
            env_steps=self.progress.env_steps + steps, updates=self.progress.updates + 1
        )
        self._plane.publish(self.progress.updates, self.learner.flat_parameters())
        metrics |= {"actor/policy_lag_mean": float(lags.mean()), "actor/policy_lag_max": float(lags.max())}
        self._means.add(metrics)
        self._view.latest = metrics
        self._watch_for_nan(batch, skipped=metrics["learner/skipped"] > 0)

    def _watch_for_nan(self, batch: Unroll[Array], skipped: bool) -> None:
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
        if self._skipped_in_a_row < MOST_SKIPPED_UPDATES:
            return
        file = self._run.path / f"nan-batch-{self.progress.env_steps}.safetensors"
        where = f"the last batch is in '{file}'"
        try:
            write_atomically(file, save({name: np.ascontiguousarray(a) for name, a in to_arrays(batch).items()}))
        except OSError as error:
            where = f"the last batch could not be written ({error.strerror})"
        raise RunFailedError(
            f"{MOST_SKIPPED_UPDATES} updates in a row gave NaN or infinity; {where}; try a lower --learning-rate"
        )

    def _now_and_then(self) -> None:
        """Everything that is not learning: episodes, log, evaluation, checkpoint, and whether to stop."""
        for episode in self._plane.drain_episodes():
            self.episodes.record(episode)
        for fault in self._plane.drain_faults():
            self._view.notice(f"environment replaced: {fault}")
        now = time.monotonic()
        self._stop_reason = self._stop_reason or self._goal_met(now)
        if not self._has_learned:
            self._view.starting(self._plane.stats(), self._plane.total_slots)
            self._meter.restart(self.progress, self._seconds())
            return
        self._view.refresh(self._now(), self._seconds(), self.episodes)
        if self._meter.age_s >= self._config.log_seconds:
            self._log()
        self._evaluate_if_due()
        if now - self._saved_at >= 60 * self._config.checkpoint_minutes:
            self._save_or_notice("the run goes on")

    def _seconds(self) -> dict[str, float]:
        return self._plane.stats().shares | self._shares.seconds()

    def _log(self, extra: dict[str, float] | None = None) -> None:
        progress, seconds, stats = self._now(), self._seconds(), self._plane.stats()
        speeds = self._meter.speeds(progress, seconds)
        self._meter.restart(progress, seconds)
        values = {
            "speed/env_steps_per_s": speeds.env_steps_per_s,
            "speed/frames_per_s": speeds.env_steps_per_s * self._spec.frames_per_step,
            "speed/updates_per_s": speeds.updates_per_s,
            **{f"time/{name}": share for name, share in speeds.shares.items()},
            "process/memory_gib": resident_memory() / 2**30,
            "queue/accepted": stats.account.accepted,
            "queue/learned": stats.account.learned,
            "queue/queued": stats.account.queued,
            "faults/replaced": progress.faults,
            "faults/env_steps_cut": progress.env_steps_cut,
            "faults/unrolls_lost": progress.unrolls_lost,
            **self._means.take(),
            **self.episodes.metrics(self._spec.tasks),
            **(extra or {}),
        }
        self._metrics.write(
            values, progress.env_steps, progress.env_steps * self._spec.frames_per_step, progress.elapsed_s
        )

    def _goal_met(self, now: float) -> str | None:
        config = self._config
        if self.progress.env_steps >= self._total_env_steps:
            return "the schedule is complete"
        if config.minutes is not None and now - self._started >= 60 * config.minutes:
            return f"{config.minutes:g} minutes are over"
        mean = self.episodes.window_return()
        if config.until_return is not None and mean is not None and mean >= config.until_return:
            return f"the mean return of the last 100 episodes reached {mean:.1f}"
        return None

    def _request_stop(self, reason: str) -> None:
        self._stop_reason = reason
        self._interrupted = True

    # Evaluation

    def _evaluate_if_due(self) -> None:
        frames = self.progress.env_steps * self._spec.frames_per_step
        if self._config.eval_every is None or frames < self.progress.next_evaluation:
            return
        self.progress = self.progress._replace(next_evaluation=frames + self._config.eval_every)
        try:
            with self._shares.measure("evaluating"):
                self._evaluate()
        except (RunFailedError, UserError) as error:
            self._view.notice(f"no evaluation: {error}; the run goes on")

    def _evaluate(self) -> None:
        policy = policy_maker(self._config, self._parts)()
        policy.load_parameters(self.learner.flat_parameters())
        result = evaluate(
            self._parts.factory,
            policy,
            tasks=range(self._spec.num_tasks),
            episodes=self._config.eval_episodes,
            seed=self._config.seed,
            run=str(self._run.path),
            env_steps=self.progress.env_steps,
            step_timeout_s=self._config.runtime.step_timeout_s,
            stop=lambda: self._interrupted,
        )
        result.save(self._run.report)
        self._log({f"eval/{task}": score for task, score in result.mean_returns.items()})
        best = self._run.best()
        if best is None or result.score > best.score:
            self.save()
            self._run.mark_best(self.progress.env_steps, result.score)
        self._view.notice(f"evaluation at {self.progress.env_steps:,} env steps: {result.score:.4g}")


@contextmanager
def _signals(request_stop: Callable[[str], None]) -> Iterator[None]:
    """First SIGINT or SIGTERM: stop after this update and save. Second: abort at once."""

    def stop(number: int, _: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        request_stop(f"{signal.Signals(number).name} received")

    try:
        former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals stay with whoever has it
        yield
        return
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
