"""Wall time from the command to a mean return of 475 on CartPole-v1, PPO of Machina and of stable-baselines3.

    python benchmarks/cartpole.py --seeds 5 --peer-python PEER/bin/python

The trainers take turns, seed by seed, so that both see the same machine. The peer has its own environment, in which
``pip install stable-baselines3`` was typed; it runs with its defaults, and stops at the same figure: the mean
return of the latest 100 training episodes.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

from pydantic import BaseModel, Field

from machina.cli.options import parse

PEER = """
import sys
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

class Stop(BaseCallback):
    def _on_step(self):
        latest = self.model.ep_info_buffer
        return len(latest) < 100 or sum(each["r"] for each in latest) / len(latest) < 475

PPO("MlpPolicy", "CartPole-v1", seed=int(sys.argv[1]), device="cpu").learn(1_000_000, callback=Stop())
"""


class Options(BaseModel):
    """Time both trainers."""

    seeds: int = Field(default=5, ge=1, description="Runs of each trainer, with seeds from 1.")
    peer_python: str = Field(default="", description="Interpreter that has stable-baselines3; empty: Machina alone.")


def main() -> None:
    options = parse(Options, sys.argv[1:], "benchmarks/cartpole.py")
    machina = [sys.executable, "-m", "machina", "train", "ppo", "CartPole-v1", "--until-return", "475", "--seed"]
    commands = {"machina": machina}
    if options.peer_python:
        commands["stable-baselines3"] = [options.peer_python, "-c", PEER]
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for seed in range(1, options.seeds + 1):
        for name, command in commands.items():
            seconds[name].append(timed([*command, str(seed)]))
            print(f"{name:>18}  seed {seed}  {seconds[name][-1]:6.1f} s", flush=True)
    for name, each in seconds.items():
        print(f"{name:>18}  median  {statistics.median(each):6.1f} s")


def timed(command: list[str]) -> float:
    """Seconds that the command took, in an empty folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
