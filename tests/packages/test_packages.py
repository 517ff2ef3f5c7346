"""Third-party environments through the real command line: train, resume, eval, watch, plot, and nothing stays behind.

docs/environments.md has the table that this repeats. Needs the packages of requirements.txt.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import NamedTuple

import pytest

from machina.metrics import read_metrics

pytestmark = [pytest.mark.packages, pytest.mark.timeout(1_500)]

HERE = Path(__file__).parent
COMMAND_TIMEOUT_S = 300.0
ENDING_S = 5.0
"""How long helpers of Python's multiprocessing may take to notice that the command is over."""


class Tried(NamedTuple):
    """One environment of a package."""

    name: str
    algorithm: str = "ppo"
    options: tuple[str, ...] = ()
    steps: int = 512
    """Long enough for an episode to end after the run was resumed, so that there is something to plot."""
    films: bool = True
    """Whether the package draws pictures."""


PICTURES = ("--filters", "8", "8", "--kernels", "8", "4", "--strides", "8", "4")
TILES = ("--filters", "8", "8", "--kernels", "3", "3", "--strides", "1", "1")
MEMORY = ("--lstm-size", "16")
NO_TEXT = ("--drop-keys", "mission")

TRIED = (
    Tried("own_tasks:MinAtarBreakout-v0", "impala", TILES),
    Tried("minigrid:MiniGrid-Empty-5x5-v0", options=NO_TEXT),
    Tried("minigrid:BabyAI-GoToLocal-v0", "impala", NO_TEXT),
    Tried("highway_env:highway-fast-v0", steps=128),
    Tried("highway_env:racetrack-v0", steps=256),
    Tried("highway_env:parking-v0"),
    Tried("vizdoom.gymnasium_wrapper:VizdoomBasic-v1", "impala", PICTURES),
    Tried("vizdoom.gymnasium_wrapper:VizdoomDeadlyCorridor-v1", "impala", PICTURES),
    Tried("shimmy:dm_control/cartpole-swingup-v0", steps=2_304),
    Tried("shimmy:bsuite/catch-v0", films=False),
    Tried("gym_pusht:gym_pusht/PushT-v0", steps=1_024),
    Tried("flappy_bird_gymnasium:FlappyBird-v0", "impala"),
    Tried("popgym:popgym-RepeatPreviousEasy-v0", "impala", MEMORY, films=False),
    Tried("popgym:popgym-BattleshipEasy-v0", options=(*MEMORY, "--minibatches", "2"), films=False),
    Tried("popgym:popgym-ConcentrationEasy-v0", films=False),
    Tried("own_tasks:Crafter-v0", "impala", PICTURES, steps=1_024),
    Tried("gymnasium_robotics:FetchReach-v4"),
    Tried("gymnasium_robotics:PointMaze_UMaze-v3", steps=1_024),
    Tried("gymnasium_robotics:AdroitHandDoor-v1"),
    Tried("gymnasium_robotics:FrankaKitchen-v1", steps=1_024),
    Tried("own_tasks:Reach-v0", steps=1_536),
    Tried("panda_gym:PandaReach-v3"),
    Tried("own_tasks:DeepSeaTreasure-v0"),
    Tried("own_tasks:Airstriker-v0", "impala", PICTURES, steps=4_096),
    Tried("gymnasium_2048:gymnasium_2048/TwentyFortyEight-v0", "impala", TILES),
    Tried("memory_gym:MortarMayhem-Grid-v0", "impala", PICTURES),
    Tried("tetris_gymnasium.envs:tetris_gymnasium/Tetris", "impala", films=False),
    Tried("nle:NetHackScore-v0", "impala", films=False, steps=12_800),
    Tried("gym_anytrading:stocks-v0", steps=5_120, films=False),
    Tried("LunarLander-v3", "impala"),
    Tried("pettingzoo:classic/tictactoe-v3", "impala"),
    Tried("pettingzoo:classic/rps-v2", "impala"),
    Tried("pettingzoo:classic/chess-v6", "impala", steps=4_096),
    Tried("pettingzoo:classic/go-v5", "impala", steps=6_144),
    Tried("pettingzoo:classic/leduc_holdem-v4", "impala"),
    Tried("pettingzoo:classic/texas_holdem-v4", "impala"),
    Tried("pettingzoo:classic/texas_holdem_no_limit-v6", "impala"),
    Tried("pettingzoo:classic/hanabi-v5", "impala"),
    Tried("pettingzoo:butterfly/pistonball-v6", "impala", PICTURES, steps=7_680),
    Tried("pettingzoo:butterfly/cooperative_pong-v6", "impala", PICTURES),
    Tried("pettingzoo:butterfly/knights_archers_zombies-v11", "impala", steps=4_096),
    Tried("pettingzoo:sisl/multiwalker-v9"),
    Tried("pettingzoo:sisl/pursuit-v5", "impala", steps=10_240),
)

REFUSED = {
    "MinAtar/Breakout-v1": "gymnasium knows no id 'MinAtar/Breakout-v1'",
    "vizdoom.gymnasium_wrapper:VizdoomDeadlyCorridor-MultiBinary-v1": "action space MultiBinary(7)",
    "rware:rware-tiny-2ag-easy-v2": "action space Tuple(Discrete(5), Discrete(5))",
    "lbforaging:Foraging-5x5-2p-1f-v3": "action space Tuple(Discrete(6), Discrete(6))",
    "metaworld:Meta-World/MT1": "missing 1 required positional argument: 'env_name'",
    "metaworld:Meta-World/MT10": "entry_point is not specified",
}
"""Names that don't work as they are, and what the one line says; own_tasks.py has what does."""


class Machina:
    """Runs `machina` in a folder of its own and looks for what it left running."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mark = uuid.uuid4().hex

    def __call__(self, *arguments: str | Path) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, (arguments[0], done.stdout, done.stderr)
        assert "Traceback" not in done.stderr, (arguments[0], done.stderr)
        return done.stdout

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """The command without a display; none of its processes may outlive it."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(HERE.parents[1]), str(HERE)))}
        environment |= {"OMP_NUM_THREADS": "1", "MACHINA_TEST": self._mark}
        for name in ("DISPLAY", "MUJOCO_GL"):
            environment.pop(name, None)
        done = subprocess.run(
            [sys.executable, "-m", "machina", *map(str, arguments)],
            cwd=self._folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )
        print("$ machina", *arguments, f"\n{done.stdout}{done.stderr}exit code {done.returncode}")
        deadline = time.monotonic() + ENDING_S
        while left := self._left():
            assert time.monotonic() < deadline, (arguments[0], left)
            time.sleep(0.1)
        return done

    def _left(self) -> list[str]:
        """Command lines of processes that the commands started and that still run."""
        found = []
        for process in Path("/proc").iterdir():
            try:
                if process.name.isdigit() and self._mark.encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:  # it has ended meanwhile
                continue
        return found


def drop_checkpoints_after(run: Path, count: int) -> None:
    """As if the run had been killed then."""
    for folder in sorted(path for path in (run / "checkpoints").iterdir() if path.is_dir())[count:]:
        shutil.rmtree(folder)


def env_steps(run: Path) -> float:
    steps = read_metrics(run)[-1]["env_steps"]
    assert steps is not None
    return steps


@pytest.mark.parametrize("tried", TRIED, ids=lambda tried: tried.name)
def test_the_life_of_a_run(tried: Tried, tmp_path: Path) -> None:
    machina = Machina(tmp_path)
    run = tmp_path / "runs" / "run"
    out = machina(
        *("train", tried.algorithm, tried.name, "--runs-dir", tmp_path / "runs", "--name", "run"),
        *("--envs-per-task", "2", "--unroll-length", "16", "--total-frames", str(tried.steps)),
        *("--checkpoint-minutes", "1e-9", "--keep-checkpoints", "999", *tried.options),
    )
    assert "\nnetwork: " in out
    steps = env_steps(run)
    assert steps >= tried.steps
    drop_checkpoints_after(run, 2)
    machina("resume", run)
    assert env_steps(run) == steps
    machina("eval", run, "--episodes", "2")
    if tried.films:
        machina("watch", run, "--max-steps", "100")
        (film,) = (run / "videos").glob("*.mp4")
        assert film.stat().st_size > 0
    machina("plot", run)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_said_in_one_line(name: str, tmp_path: Path) -> None:
    done = Machina(tmp_path).run("train", "ppo", name, "--runs-dir", tmp_path / "runs")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert REFUSED[name] in done.stderr
