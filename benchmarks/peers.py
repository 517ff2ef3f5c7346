"""PPO and DQN of Machina and of stable-baselines3, in turns on one machine.

    python benchmarks/peers.py cartpole --peer-python PEER/bin/python
    python benchmarks/peers.py pong --peer-python PEER/bin/python
    python benchmarks/peers.py dqn-pong --peer-python PEER/bin/python

cartpole: seconds from the command to a mean return of 475 over the latest 100 training episodes of CartPole-v1.
pong: env steps per second with 8 environments, 128 steps, 4 epochs and minibatches of 256, without imports and start.
dqn-pong: env steps per second of DQN at equal work: batches of 32, one every 4 env steps, the network of the Nature
paper, Adam, a replay of 100,000; after the first 3,000 env steps. Machina has 8 environments in place inline, once in
its own precision and once in float32.

The peer has its own environment, in which ``pip install stable-baselines3 ale-py opencv-python-headless`` was typed. On
CartPole it runs with its defaults, on Pong with the settings above, which are those of its published configurations.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field
from refusals import refusing
from tyro.conf import Positional

from machina.cli.options import parse

PEER_ON_CARTPOLE = """
import sys
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

class Stop(BaseCallback):
    def _on_step(self):
        latest = self.model.ep_info_buffer
        return len(latest) < 100 or sum(each["r"] for each in latest) / len(latest) < 475

PPO("MlpPolicy", "CartPole-v1", seed=int(sys.argv[1]), device="cpu").learn(1_000_000, callback=Stop())
"""

PEER_ON_PONG = """
import sys, time
import ale_py, gymnasium
gymnasium.register_envs(ale_py)
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

class Clock(BaseCallback):
    started = 0.0
    def _on_step(self):
        return True
    def _on_rollout_start(self):  # whole iterations; the first one warms up
        if self.num_timesteps == 1024:
            self.started = time.perf_counter()
        elif self.started and time.perf_counter() - self.started > float(sys.argv[2]):
            print((self.num_timesteps - 1024) / (time.perf_counter() - self.started))
            sys.exit()

env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=8, seed=int(sys.argv[1])), 4)
PPO("CnnPolicy", env, n_steps=128, n_epochs=4, batch_size=256, learning_rate=2.5e-4, clip_range=0.1, ent_coef=0.01,
    vf_coef=0.5, device="cpu").learn(10_000_000, callback=Clock())
"""

PEER_DQN_ON_PONG = """
import sys, time
import ale_py, gymnasium
gymnasium.register_envs(ale_py)
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

class Clock(BaseCallback):
    started = 0.0
    def _on_step(self):
        if self.num_timesteps == 3000:
            self.started = time.perf_counter()
        elif self.started and time.perf_counter() - self.started > float(sys.argv[2]):
            print((self.num_timesteps - 3000) / (time.perf_counter() - self.started))
            sys.exit()
        return True

env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=1, seed=int(sys.argv[1])), 4)
DQN("CnnPolicy", env, buffer_size=100_000, batch_size=32, learning_starts=2_000, train_freq=4, gradient_steps=1,
    target_update_interval=10_000, device="cpu").learn(10_000_000, callback=Clock())
"""


class Options(BaseModel):
    """Measure both trainers."""

    task: Positional[Literal["cartpole", "pong", "dqn-pong"]] = Field(description="What is measured.")
    seeds: int = Field(default=5, ge=1, description="Runs of each trainer, with seeds from 1.")
    seconds: float = Field(default=60, gt=0, description="Length of a run on Pong.")
    peer_python: str = Field(description="Interpreter that has stable-baselines3.")


def main() -> None:
    options = parse(Options, sys.argv[1:], "benchmarks/peers.py")
    machina = [sys.executable, "-m", "machina", "train"]
    peer = [options.peer_python, "-c"]
    trainers: dict[str, Callable[[str], float]]
    if options.task == "cartpole":
        unit = "s"
        trainers = {
            "machina": lambda seed: seconds([*machina, "ppo", "CartPole-v1", "--until-return", "475", "--seed", seed]),
            "stable-baselines3": lambda seed: seconds([*peer, PEER_ON_CARTPOLE, seed]),
        }
    elif options.task == "dqn-pong":
        unit = "env steps/s"
        settings = ["dqn", "pong", "--optimizer", "adam", "--replay-capacity", "100000", "--learning-starts", "2000"]
        settings += ["--place", "inline", "--minutes", str(options.seconds / 60)]
        trainers = {
            "machina": lambda seed: own_speed([*machina, *settings, "--seed", seed]),
            "machina, float32": lambda seed: own_speed([*machina, *settings, "--precision", "float32", "--seed", seed]),
            "stable-baselines3": lambda seed: float(output([*peer, PEER_DQN_ON_PONG, seed, str(options.seconds)])),
        }
    else:
        unit = "env steps/s"
        settings = ["ppo", "pong", "--config", "defaults", "--epochs", "4", "--minutes", str(options.seconds / 60)]
        trainers = {
            "machina": lambda seed: own_speed([*machina, *settings, "--envs-per-task", "8", "--seed", seed]),
            "stable-baselines3": lambda seed: float(output([*peer, PEER_ON_PONG, seed, str(options.seconds)])),
        }
    figures: dict[str, list[float]] = {name: [] for name in trainers}
    for seed in range(1, options.seeds + 1):
        for name, measure in trainers.items():
            figures[name].append(measure(str(seed)))
            print(f"{name:>18}  seed {seed}  {figures[name][-1]:6.1f} {unit}", flush=True)
    for name, each in figures.items():
        print(f"{name:>18}  median  {statistics.median(each):6.1f} {unit}")


def seconds(command: list[str]) -> float:
    """Wall time of the command, in an empty folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


def own_speed(command: list[str]) -> float:
    """Env steps per second between the run's second metrics line and its last."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*command, "--name", "run"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        text = Path(folder, "runs", "run", "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    steps, wall = (lines[-1][name] - lines[1][name] for name in ("env_steps", "wall_s"))
    return float(steps / wall)


def output(command: list[str]) -> str:
    """What the command prints."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    refusing(main)
