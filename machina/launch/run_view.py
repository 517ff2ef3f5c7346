"""From the training loop's numbers to what a person sees."""

from __future__ import annotations

from pathlib import Path

from machina.actors.actor_group import ActorStats
from machina.launch.progress import Meter, Progress
from machina.league.table import LeagueTable
from machina.metrics import EpisodeTracker
from machina.report.live import LiveView, StartupProgress
from machina.report.scores import human_normalized
from machina.report.screen import RunFacts, RunMoment, TaskRow
from machina.specs import EnvSpec

SPEED_WINDOW_S = 15.0
"""Speeds on the screen are over this long at most."""


class RunView:
    """Shows a run from its first environment to its last update.

    Args:
        facts: what does not change.
        spec: of the environment.
        total_env_steps: length of the schedule.
        minutes: when the run stops at the latest; None when the schedule ends it.
        ceiling: this machine's measured serial limit in env steps/s, None when it was never measured.
    """

    def __init__(
        self, facts: RunFacts, spec: EnvSpec, total_env_steps: int, minutes: float | None, ceiling: float | None
    ) -> None:
        self._spec = spec
        self._total_env_steps = total_env_steps
        self._minutes = minutes
        self._ceiling = ceiling
        self.live = LiveView(facts)
        self._startup: StartupProgress | None = StartupProgress(self.live.console)
        self._startup.__enter__()
        self._meter = Meter()
        self.elapsed_before_s = 0.0
        """Of former sessions; `--minutes` goes by what came since."""
        self.latest: dict[str, float] = {}
        """Metrics of the newest update."""
        self.checkpoint: Path | None = None
        self.league: LeagueTable | None = None

    def starting(self, stats: ActorStats, total_slots: int) -> None:
        """Show how far the environments are before the first update."""
        if self._startup is None:
            return
        if stats.slots_started < total_slots:
            self._startup.show("starting environments", stats.slots_started, total_slots)
        else:
            self._startup.show("first episodes and the first batch")

    def refresh(self, progress: Progress, seconds: dict[str, float], episodes: EpisodeTracker) -> None:
        """Show this moment, when a new picture is due."""
        self._end_startup()
        if self._meter.age_s == 0:
            self._meter.restart(progress, seconds)
        if not self.live.due:
            return
        self.live.update(self._moment(progress, seconds, episodes))
        if self._meter.age_s > SPEED_WINDOW_S:
            self._meter.restart(progress, seconds)

    def _moment(self, progress: Progress, seconds: dict[str, float], episodes: EpisodeTracker) -> RunMoment:
        speeds = self._meter.speeds(progress, seconds)
        faults = f"{progress.faults} environments replaced" if progress.faults else ""
        return RunMoment(
            env_steps=progress.env_steps,
            frames=progress.env_steps * self._spec.frames_per_step,
            total_frames=self._total_env_steps * self._spec.frames_per_step,
            elapsed_s=progress.elapsed_s,
            env_steps_per_s=speeds.env_steps_per_s,
            frames_per_s=speeds.env_steps_per_s * self._spec.frames_per_step,
            updates=progress.updates,
            updates_per_s=speeds.updates_per_s,
            policy_lag_mean=self.latest.get("actor/policy_lag_mean"),
            policy_lag_max=self.latest.get("actor/policy_lag_max"),
            shares=speeds.shares,
            ceiling=speeds.env_steps_per_s / self._ceiling if self._ceiling else None,
            done=self._done(progress),
            eta_s=self._eta(progress, speeds.env_steps_per_s),
            checkpoint=self.checkpoint,
            faults=faults,
            tasks=self.rows(episodes),
            league=self.league,
        )

    def _session_s(self, progress: Progress) -> float:
        return progress.elapsed_s - self.elapsed_before_s

    def _done(self, progress: Progress) -> float:
        """Of the schedule or of the minutes, whichever is nearer its end."""
        steps = progress.env_steps / self._total_env_steps
        minutes = 0.0 if self._minutes is None else self._session_s(progress) / (60 * self._minutes)
        return min(1.0, max(steps, minutes))

    def _eta(self, progress: Progress, env_steps_per_s: float) -> float | None:
        """Seconds to the end of the schedule or of the minutes, whichever comes first."""
        candidates = []
        if env_steps_per_s > 0:
            candidates.append((self._total_env_steps - progress.env_steps) / env_steps_per_s)
        if self._minutes is not None:
            candidates.append(60 * self._minutes - self._session_s(progress))
        return max(0.0, min(candidates)) if candidates else None

    def rows(self, episodes: EpisodeTracker) -> list[TaskRow]:
        """One row per task."""
        rows = []
        for task, entry in zip(self._spec.tasks, episodes.statistics(), strict=True):
            normalized = None if entry.mean_return is None else human_normalized(task, entry.mean_return)
            sigma = self.latest.get(f"popart/sigma/{task}")
            rows.append(TaskRow(task, entry.episodes, entry.mean_return, normalized, sigma))
        return rows

    def notice(self, text: str) -> None:
        """Show an event."""
        self.live.notice(text)

    def final(self, run: Path, reason: str, episodes: EpisodeTracker, *, league: bool, complete: bool) -> None:
        """Show how the run ended, what it reached and where it lies."""
        self._end_startup()
        self.live.final(run, reason, self.rows(episodes), league=league, complete=complete)

    def close(self) -> None:
        """Give the terminal back."""
        self._end_startup()
        self.live.close()

    def _end_startup(self) -> None:
        if self._startup is not None:
            self._startup.__exit__(None, None, None)
            self._startup = None
