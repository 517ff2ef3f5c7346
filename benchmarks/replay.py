"""How fast the replay stores and samples Atari's frames, beside cpprb where it is installed, in turns in one process.

    python benchmarks/replay.py [--capacity 200000] [--rounds 5]

A call draws 512 items with n-step windows and writes 512 priorities back. `both stacks`: they are built as
well, as the learner does it; cpprb hands out stacks. Adds come in batches of 16 env steps.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from machina.algorithms.replaying.targets import samples_of
from machina.buffers.layout import Layout
from machina.buffers.priorities import Priorities, PriorityRule
from machina.buffers.replay_size import bytes_per_step
from machina.buffers.replay_store import ReplayStore
from machina.buffers.unrolls import UnrollBuffer
from machina.hardware import available_cores, tune_process
from machina.nets.unroll_tensors import to_device
from machina.specs import ArraySpec, EnvSpec, discrete
from machina.types import Array, Unroll

SLOTS, LENGTH, BATCH, N = 16, 1, 512, 3
SPEC = EnvSpec(
    name="frames",
    tasks=("frames",),
    observation={"observation": ArraySpec(shape=(4, 84, 84), dtype="uint8")},
    action=discrete(6),
    frame_stack=4,
)


def unrolls(length: int) -> list[Unroll[Array]]:
    """Some unrolls of noise in parts of the picture, which LZ4 finds as hard as a busy game."""
    random = np.random.default_rng(0)
    made = []
    for start in range(16):
        slots = np.arange(SLOTS)
        unroll = UnrollBuffer(SPEC, {}, length, slots, 0 * slots, ()).unroll
        frames = unroll.observation["observation"]
        frames[...] = 0
        frames[..., 20:40, 20:60] = random.integers(0, 256, (*frames.shape[:2], 20, 40))
        unroll.reward[...] = random.normal(size=unroll.reward.shape)
        unroll.start[...] = start * length
        made.append(unroll)
    return made


class Ours:
    """The store as a run has it."""

    def __init__(self, capacity: int, *, compressed: bool = False, kind: Any = "proportional") -> None:
        layout = Layout(SPEC, {}, (), LENGTH, N, True, compressed)
        self.bytes = bytes_per_step(layout)
        self.store = ReplayStore(layout, capacity, SLOTS, PriorityRule(kind, 0.6, 1e-6), None)
        self._random = np.random.default_rng(1)
        self._unrolls = unrolls(LENGTH)
        self._puts = 0

    def put(self) -> int:
        unroll = self._unrolls[self._puts % len(self._unrolls)]
        unroll.start[...] = self._puts * LENGTH
        self._puts += 1
        self.store.put(unroll)
        return SLOTS * LENGTH

    def call(self) -> int:
        drawn = self.store.draw((np.arange(BATCH) + self._random.random(BATCH)) / BATCH)
        self.store.write_back(drawn.keys, self._random.random(BATCH))
        return 1

    def call_with_stacks(self) -> int:
        drawn = self.store.draw((np.arange(BATCH) + self._random.random(BATCH)) / BATCH)
        samples_of(to_device(drawn.unroll, torch.device("cpu")), SPEC, gamma=0.99, clips_rewards=True)
        self.store.write_back(drawn.keys, self._random.random(BATCH))
        return 1


class Cpprb:
    """cpprb's prioritized buffer with whole stacks and its own n-step returns."""

    def __init__(self, capacity: int) -> None:
        import cpprb

        shape = {"shape": (84, 84, 4), "dtype": np.uint8}
        columns = {"obs": shape, "act": {}, "rew": {}, "next_obs": shape, "done": {}}
        nstep = {"size": N, "gamma": 0.99, "rew": "rew", "next": "next_obs"}
        self.buffer = cpprb.PrioritizedReplayBuffer(capacity, columns, alpha=0.6, Nstep=nstep)
        self._random = np.random.default_rng(1)
        self._stack = self._random.integers(0, 256, (16, 84, 84, 4)).astype(np.uint8)

    def put(self) -> int:
        zeros = np.zeros(16)
        self.buffer.add(obs=self._stack, act=zeros, rew=zeros, next_obs=self._stack, done=zeros)
        return 16

    def call(self) -> int:
        sample = self.buffer.sample(BATCH, beta=0.4)
        self.buffer.update_priorities(sample["indexes"], self._random.random(BATCH))
        return 1


def rate(work: Callable[[], int], seconds: float = 1.0) -> float:
    """Per second."""
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        done += work()
    return done / (time.perf_counter() - started)


def draws_of(items: int) -> float:
    """Draws of indices and masses per second, without frames."""
    random = np.random.default_rng(0)
    priorities = Priorities(PriorityRule("proportional", 0.6, 1e-6), items)
    priorities.set(np.arange(items), random.random(items))

    def draw() -> int:
        priorities.draw((np.arange(BATCH) + random.random(BATCH)) / BATCH)
        return 1

    return rate(draw)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capacity", type=int, default=200_000, help="env steps")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each; medians are shown")
    options = parser.parse_args()
    tune_process(available_cores())  # as in a run: else every call has its memory cleared by the kernel
    ours, packed = Ours(options.capacity), Ours(options.capacity, compressed=True)
    uniform = Ours(options.capacity, kind="none")
    works: dict[str, Callable[[], int]] = {
        "sample, windows": ours.call,
        "sample, both stacks": ours.call_with_stacks,
        "sample, LZ4": packed.call,
        "sample, uniform": uniform.call,
        "add, env steps": ours.put,
        "add, env steps, LZ4": packed.put,
    }
    filled: list[Any] = [ours, packed, uniform]
    if importlib.util.find_spec("cpprb") is not None:
        theirs = Cpprb(min(options.capacity, 100_000))
        filled.append(theirs)
        works |= {"sample, cpprb": theirs.call, "add, env steps, cpprb": theirs.put}
    for each in filled:
        for _ in range(options.capacity // SLOTS + 100):
            each.put()
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(options.rounds):
        for name, work in works.items():
            rates[name].append(rate(work))
    print(f"{ours.bytes:,.0f} bytes per env step; {options.capacity:,} env steps; per second, medians of turns:")
    for name, found in rates.items():
        print(f"{name:24} {statistics.median(found):12,.1f}")
    few, many = (draws_of(items) for items in (10_000, 10_000_000))
    print(f"drawing {BATCH} of 10,000,000 items takes {few / many:.2f} times as long as of 10,000")


if __name__ == "__main__":
    main()
