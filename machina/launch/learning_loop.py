"""The loop at the heart of every run: a batch in, parameters out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from machina.buffers.buffer import Batch
from machina.launch.places import Actors
from machina.learner.learner_group import LearnerGroup, Lost, Updated
from machina.metrics import TimeShares
from machina.types import IntArray, Learned


class LearningLoop:
    """Takes batches, has them learned, settles them and publishes what came of them.

    Args:
        actors: with their buffer and parameter store.
        learners: that share every batch.
        total_env_steps: length of the run.
        lock_step: whether parameters are published only when the round's last batch is learned.
        on_update: called for each update after it is counted and before its parameters are published, with the policy
            lags ``[B]`` of its batch.
    """

    def __init__(
        self,
        actors: Actors,
        learners: LearnerGroup,
        *,
        total_env_steps: int,
        lock_step: bool = False,
        on_update: Callable[[Updated, IntArray], None] = lambda updated, lags: None,  # noqa: ARG005
    ) -> None:
        self._actors = actors
        self._learners = learners
        self._total_env_steps = total_env_steps
        self._lock_step = lock_step
        self._on_update = on_update
        self._env_steps_before = 0
        self._submitted: Batch | None = None  # to the learner, which has not returned
        self.updates = 0
        """Of the whole run."""
        self.shares = TimeShares()

    def continue_from(self, env_steps: int, updates: int) -> None:
        """Count on from a former session's numbers; before ``begin``."""
        self._env_steps_before = env_steps
        self.updates = updates

    @property
    def env_steps(self) -> int:
        """Of the whole run, as its buffer counts them."""
        return self._env_steps_before + self._actors.buffer.env_steps

    def begin(self) -> None:
        """Publish the parameters as they are, also where a saved replay owes updates; then the actors can start."""
        self._publish_now(self._learners.parameters())

    def turn(self, timeout_s: float) -> None:
        """Submit the next batch and take what is finished; waits for the batch no longer than ``timeout_s``.

        Raises:
            UserError, RunFailedError: an actor or the learner failed for good.
        """
        with self.shares.measure("learner_waiting"):
            batch = self._actors.group.next_batch(self.updates, timeout_s)
        if batch is None:  # actors may be waiting for the parameters of an update under way
            self.drain()
            return
        under_way = self._actors.buffer.env_steps_of(self._learners.under_way)
        self._submitted = batch
        with self.shares.measure("learning"):
            answers = self._learners.submit(batch, (self.env_steps + under_way) / self._total_env_steps)
        self._submitted = None
        self._take(answers)

    def drain(self) -> None:
        """Wait for the updates under way, and take what came of them."""
        self._take(self._learners.drain())

    def _take(self, answers: list[Updated | Lost]) -> None:
        for answer in answers:
            if isinstance(answer, Lost):
                self._actors.buffer.settle(answer.batch, None)
                continue
            versions = answer.batch.policy_versions
            lags = np.where(versions < 0, 0, self.updates - versions)  # a demonstration lags behind nothing
            self._actors.buffer.settle(answer.batch, answer.learned)
            self.updates += 1
            self._on_update(answer, lags)
            if answer.batch.publishes:
                self._publish(answer.parameters)
        if any(isinstance(answer, Lost) for answer in answers):
            self._publish(self._learners.parameters())

    def _publish(self, parameters: Any) -> None:
        if not (self._lock_step and self._actors.buffer.holds_batch):
            self._publish_now(parameters)

    def _publish_now(self, parameters: Any) -> None:
        self._actors.store.publish(self.updates, parameters, self.env_steps / self._total_env_steps)

    def count_unpublished(self, updates: int) -> None:
        """Count the batch that was submitted last, if the learner, which has made ``updates``, learned from it.

        After an error between the update and the handover of its parameters.
        """
        if self._submitted is not None and updates == self.updates + 1:
            self._actors.buffer.settle(self._submitted, Learned({}))
            self.updates += 1
            self._submitted = None
