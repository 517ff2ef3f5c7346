"""Films of a policy at play."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from machina.errors import EnvironmentFaultError, RunFailedError
from machina.launch.acting import PolicyState
from machina.launch.jobs import file_name, load_run, task_index
from machina.report.video import write_mp4
from machina.runtime.stepping import ThreadStepper, fault_at_hang
from machina.types import Array

FRAMES_PER_S = 60
"""The Atari's frame rate; other environments are shown at half of it."""


class Film(NamedTuple):
    """A written film."""

    file: Path
    task: str
    frames: int
    episode_return: float
    remark: str


class _Play:
    """Plays one episode and yields its pictures."""

    def __init__(
        self, stepper: ThreadStepper, player: PolicyState, seed: int, max_steps: int, timeout_s: float
    ) -> None:
        self._stepper = stepper
        self._player = player
        self._seed = seed
        self._timeout_s = timeout_s
        self._max_steps = max_steps
        self.episode_return = 0.0
        self.ended = False

    def pictures(self) -> Iterator[Array]:
        env = self._stepper.env
        entry = self._stepper.reset([self._seed], self._timeout_s)
        for _ in range(self._max_steps):
            yield env.render()
            self._stepper.send(self._player.act(entry.observation, entry.reward))
            entry = self._stepper.receive(self._timeout_s)
            self.episode_return += float(entry.reward[0])
            if entry.terminated[0] or entry.truncated[0]:
                self.ended = True
                yield env.render()
                return


def film(run: Path, game: str | None, seed: int, best: bool, max_steps: int) -> Film:
    """Film one episode of a run's policy.

    Raises:
        UserError: no such run, task or checkpoint, or an environment without pictures.
        RunFailedError: the environment fails, or the film can't be written.
    """
    loaded = load_run(run, best)
    spec = loaded.parts.factory.spec
    task = 0 if game is None else task_index(game, spec.tasks)
    stepper = ThreadStepper(loaded.parts.factory.make_for_video(task), fault_at_hang)
    try:
        player, timeout_s = PolicyState(loaded.policy, 1, seed), loaded.config.runtime.step_timeout_s
        play = _Play(stepper, player, seed, max_steps, timeout_s)
        file = loaded.run.videos / f"{file_name(spec.tasks[task])}-{loaded.checkpoint.step:012d}-seed{seed}.mp4"
        fps = FRAMES_PER_S / spec.frames_per_step if spec.frames_per_step > 1 else FRAMES_PER_S / 2
        frames = write_mp4(file, play.pictures(), fps)
    except EnvironmentFaultError as fault:
        raise RunFailedError(f"filming stopped: {fault}\n{fault.details}".rstrip()) from fault
    finally:
        stepper.close()
    remark = "" if play.ended else f", cut after {max_steps} env steps"
    return Film(file, spec.tasks[task], frames, play.episode_return, remark)
