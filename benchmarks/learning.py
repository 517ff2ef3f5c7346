"""How soon the value-based algorithms learn two small tasks, variant by variant, several seeds each.

    python benchmarks/learning.py cartpole --seeds 20
    python benchmarks/learning.py mountaincar --seeds 5 --processes 2

cartpole: episodes until the mean return of the last 100 exceeds 150; dqn with double and dueling, with proportional
priorities, and with those and importance weights.
mountaincar: env steps until the mean return of the last 20 episodes is at least -150, and at least -130, no reward
shaped; rainbow as it is, with a demonstration, with the best episodes so far, with both, and r2d3. A run that does not
get there in its 300,000 env steps counts as 300,000, on CartPole with all its episodes.

The demonstration is one episode of a script that pushes the way the car moves. Every run is a process with one thread.
Each is printed as it ends, the table comes last; with --out folder the runs stay, for `machina plot`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from pydantic import BaseModel, Field
from refusals import refusing
from tyro.conf import Positional

from machina.cli.options import parse
from machina.errors import UserError

HERE = Path(__file__).resolve().parent
MACHINA = [sys.executable, "-m", "machina"]
EPISODES_FILE = "EPISODES_FILE"
"""Environment variable: where the environment of a run notes its episodes (``noted_episodes``)."""

WRAPPER = "learning:noted_episodes"

DEMONSTRATED = ("--demos", "DEMOS", "--demo-ratio", "1.0 -> 1/512 over 50000")
REMEMBERED = ("--episode-memory", "10")


class Task(NamedTuple):
    """What is compared."""

    environment: str
    variants: dict[str, tuple[str, ...]]
    window: int
    goals: tuple[float, ...]
    """Mean returns of the last ``window`` episodes."""
    counts_episodes: bool
    """Episodes are compared; else env steps."""
    env_steps: int
    """Of a run that does not get there, as configured."""


TASKS = {
    "cartpole": Task(
        "CartPole-v1",
        {
            "double, dueling": ("dqn",),
            "prioritized": ("dqn", "--priority", "proportional", *("--importance-sampling-exponent", "0"),
                            *("--importance-sampling-exponent-final", "0")),
            "prioritized, importance weights": ("dqn", "--priority", "proportional"),
        },
        100,
        (150.0,),
        counts_episodes=True,
        env_steps=100_000,
    ),
    "mountaincar": Task(
        "MountainCar-v0",
        {
            "rainbow": ("rainbow",),
            "rainbow, a demonstration": ("rainbow", *DEMONSTRATED),
            "rainbow, best episodes": ("rainbow", *REMEMBERED),
            "rainbow, both": ("rainbow", *DEMONSTRATED, *REMEMBERED),
            "r2d3": ("r2d3", *DEMONSTRATED),
        },
        20,
        (-150.0, -130.0),
        counts_episodes=False,
        env_steps=300_000,
    ),
}  # fmt: skip


class Options(BaseModel):
    """Compare variants of the value-based algorithms."""

    task: Positional[Literal["cartpole", "mountaincar"]] = Field(description="What is learned.")
    seeds: int = Field(default=5, ge=1, description="Runs of each variant, with seeds from 1.")
    processes: int = Field(default=1, ge=1, description="Runs at a time.")
    only: str | None = Field(default=None, description="Name of the one variant that is run.")
    out: Path | None = Field(default=None, description="Folder for the runs; they are removed without it.")


def main() -> None:
    options = parse(Options, sys.argv[1:], "benchmarks/learning.py")
    task = TASKS[options.task]
    if options.only not in (None, *task.variants):
        raise UserError(f"only={options.only!r}: {options.task} has the variants {'; '.join(task.variants)}")
    variants = [name for name in task.variants if options.only in (None, name)]
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(options.processes) as pool:
        folder = (options.out or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if options.task == "mountaincar":
            record_demonstration(folder / "demonstration")
        jobs = [(name, seed) for seed in range(1, options.seeds + 1) for name in variants]
        figures: dict[str, list[list[int]]] = {name: [] for name in variants}
        for (name, seed), found in zip(jobs, pool.map(lambda job: figures_of(task, folder, *job), jobs), strict=True):
            figures[name].append(found)
            print(f"{name:>32}  seed {seed:2}  {'  '.join(f'{each:8,}' for each in found)}", flush=True)
    unit = "episodes" if task.counts_episodes else "env steps"
    for index, goal in enumerate(task.goals):
        print(f"\n{unit} to a mean of {goal:g} over {task.window} episodes: median (least to most)")
        for name, each in figures.items():
            counts = sorted(found[index] for found in each)
            print(f"{name:>32}  {statistics.median(counts):10,.0f}  ({counts[0]:,} to {counts[-1]:,})")


def record_demonstration(folder: Path) -> None:
    """One episode."""
    if not folder.exists():
        # With the wrapper of the runs, which notes nothing here: demonstrations are of the same environment.
        source = ["--episodes", "1", "--script", "learning:pushed_as_it_moves", "--no-pictures", "--wrapper", WRAPPER]
        subprocess.run(
            [*MACHINA, "record", "MountainCar-v0", "--out", str(folder), *source], env=environment({}), check=True
        )


def figures_of(task: Task, folder: Path, variant: str, seed: int) -> list[int]:
    """Train; how long each of the task's goals took."""
    name = f"{variant.replace(', ', '-').replace(' ', '_')}-{seed}"
    parts = ((folder / "demonstration") if part == "DEMOS" else part for part in task.variants[variant])
    algorithm, *options = map(str, parts)
    episodes = folder / f"{name}.txt"
    command = [*MACHINA, "train", algorithm, task.environment, *options, "--seed", str(seed), "--runs-dir", str(folder)]
    command += ["--name", name, "--until-return", str(task.goals[-1]), "--wrapper", WRAPPER]
    variables = {EPISODES_FILE: str(episodes), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment(variables), check=True, stdout=subprocess.DEVNULL)
    lines = [line.split() for line in episodes.read_text(encoding="utf-8").splitlines()]
    returns, steps = [float(line[0]) for line in lines], [int(line[1]) for line in lines]
    return [reached(task, returns, steps, goal) for goal in task.goals]


def reached(task: Task, returns: Sequence[float], steps: Sequence[int], goal: float) -> int:
    """Episodes or env steps until the mean of the last ones is ``goal``; of the whole run where it never is."""
    for count in range(task.window, len(returns) + 1):
        if statistics.fmean(returns[count - task.window : count]) >= goal:
            return count if task.counts_episodes else sum(steps[:count])
    if sum(steps) < 0.9 * task.env_steps:
        raise UserError(f"a run ended after {sum(steps):,} of {task.env_steps:,} env steps; run it again")
    return len(returns) if task.counts_episodes else task.env_steps


def environment(variables: dict[str, str]) -> dict[str, str]:
    """Of a command that finds this module."""
    paths = os.pathsep.join(filter(None, [str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH")]))
    return {**os.environ, **variables, "PYTHONPATH": paths}


def noted_episodes(env: VectorEnv) -> VectorEnv:
    """The wrapper that notes every episode's return and length in a file, where one is named."""
    file = os.environ.get(EPISODES_FILE)
    return env if file is None else NotedEpisodes(env, Path(file))


class NotedEpisodes(VectorWrapper):
    """Adds a line for every episode that ends."""

    def __init__(self, env: VectorEnv, file: Path) -> None:
        super().__init__(RecordEpisodeStatistics(env))
        self._file = file

    def step(self, actions: Any) -> Any:
        """Step, and note what ended."""
        result = super().step(actions)
        infos = result[4]
        if "_episode" in infos:
            ended = infos["_episode"]
            lines = zip(infos["episode"]["r"][ended], infos["episode"]["l"][ended], strict=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.writelines(f"{episode_return:g} {length}\n" for episode_return, length in lines)
        return result


def pushed_as_it_moves(observation: object, generator: object) -> int:  # noqa: ARG001
    """The script that demonstrates MountainCar."""
    return 2 if observation[1] > 0 else 0  # type: ignore[index]


if __name__ == "__main__":
    refusing(main)
