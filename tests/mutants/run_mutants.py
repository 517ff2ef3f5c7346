"""Are wrong lines caught? ``make mutants``: a seeded sample of single wrong lines, each against its module's tests.

Every wrong line is written into a copy of the tree; a process that has imported torch and the other libraries forks,
imports the copy and runs the module's tests until one fails. Time-outs and errors at import count as caught. What can't
be distinguished from the right line is listed with the reason in ``equivalent.yaml`` and does not count.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from equivalents import placed
from wrong_lines import WrongLine, sampled

ROOT = Path(__file__).resolve().parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.yaml")

IMPALA = ["algorithms/test_impala_numbers.py"]
IMPALA += [f"algorithms/{name}.py" for name in ("test_options", "test_two_ranks", "test_chunks")]
PPO = ["algorithms/test_ppo_numbers.py", *IMPALA[1:]]
PQN = ["algorithms/test_pqn_numbers.py", "algorithms/test_epsilon_greedy.py"]
TESTS = {
    "algorithms/actor_critic/": [*IMPALA, "algorithms/test_impala_learning.py", "launch/test_run_facts.py"],
    "algorithms/impala/": [*IMPALA, "algorithms/test_impala_learning.py"],
    "algorithms/impala_popart/": ["algorithms/test_options.py"],
    "algorithms/ppo/": [*PPO, "algorithms/test_ppo_learning.py"],
    "algorithms/epochs/": [*PPO, *PQN, "algorithms/test_ppo_learning.py"],
    "algorithms/pqn/": [*PQN, "algorithms/test_options.py", "algorithms/test_two_ranks.py", "launch/test_run_facts.py"],
    "machina/learner/minibatches.py": [*PPO, *PQN, "algorithms/test_chunks.py", "algorithms/test_ppo_learning.py"],
    "machina/losses/q_lambda.py": ["losses/test_q_lambda.py"],
    "machina/losses/": ["losses/test_vtrace.py", "losses"],
    "machina/learner/popart.py": ["learner/test_popart.py", "algorithms/test_impala_learning.py"],
    "machina/learner/optimizers.py": ["learner/test_optimizers.py", "algorithms/test_impala_numbers.py"],
    "envs/atari.py": ["envs/test_atari_options.py", "envs/test_atari.py"],
    "envs/slots.py": [
        "envs/test_masks_and_pictures.py",
        "envs/test_vector_adapter.py",
        "envs/test_env_builders.py",
        "envs/test_workers.py::test_stacks_are_found_within_a_second_and_only_of_what_hangs",
    ],
    "envs/action_spaces.py": ["envs/test_actions.py"],
    "machina/actions.py": ["envs/test_actions.py", "envs/test_masks_and_pictures.py", "envs/test_vector_adapter.py"],
    "machina/play/evaluation.py": ["play/test_evaluation_by_hand.py"],
    "machina/report/evaluation.py": ["report/test_evaluation.py"],
}
"""Files of a module, or a folder of modules, to the tests that it is held to, those that catch most first."""

LIBRARIES = (
    "torch._dynamo",
    "gymnasium.vector",
    "ale_py.vector_env",
    "hypothesis",
    "pettingzoo.utils",
    "pydantic",
    "rich.console",
    "rich.table",
    "safetensors.torch",
    "scipy",
    "tyro",
    "yaml",
)
"""What the tests import in addition to torch; imported once, before the forks."""

FAST = "not test_learns"
"""Tests that learn a task catch what others catch, in many times their time."""

LEAST_TIMEOUT_S = 60.0
TIMEOUT_FACTOR = 10.0
"""A wrong line may take this many times as long as the right one; other work on the machine must not decide."""

GOAL = 0.95


class Running(NamedTuple):
    """A wrong line under test."""

    wrong: WrongLine
    tree: Path
    right: str
    """The module without it."""
    deadline: float


def main() -> int:
    """Make wrong lines, run the tests, list the survivors."""
    options = _options()
    started = time.monotonic()
    equivalent = placed(ROOT, yaml.safe_load(EQUIVALENT.read_text()))
    files = [file for file in _files() if not options.only or any(part in file for part in options.only)]
    lines = sampled(ROOT, files, options.count, options.seed)
    tried = [line for line in lines if (line.file, line.line, line.before, line.after) not in equivalent]
    print(f"{len(lines)} wrong lines in {len(files)} modules, {len(lines) - len(tried)} of them listed as equivalent")
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        _copy(tree)
        _import_libraries()
        limits = {tests: _limit(tree, tests) for tests in sorted({_tests_of(line.file) for line in tried})}
        for file in files:
            Path(importlib.util.cache_from_source(str(tree / file))).unlink(missing_ok=True)
        others = [Path(folder) / f"tree{index}" for index in range(1, options.jobs)]
        trees = [tree, *(shutil.copytree(tree, other, symlinks=True) for other in others)]
        survivors = _run(tried, trees, limits)
    number = Counter(line.file for line in tried)
    missed = Counter(line.file for line in survivors)
    for file in sorted(number):
        print(f"{number[file] - missed[file]:4} of {number[file]:4} caught in {file}")
    share = 1 - len(survivors) / max(1, len(tried))
    minutes = (time.monotonic() - started) / 60
    print(
        f"{len(tried) - len(survivors)} of {len(tried)} caught, {share:.1%}; seed {options.seed}, {minutes:.1f} minutes"
    )
    return 0 if share >= GOAL else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Are wrong lines caught?")
    parser.add_argument("--count", type=int, default=600, help="wrong lines to try")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes at once")
    parser.add_argument("--only", nargs="*", default=[], help="parts of the paths of modules")
    return parser.parse_args()


def _files() -> list[str]:
    """The modules that are changed."""
    found = []
    for place in TESTS:
        matching = sorted((ROOT / place).rglob("*.py")) if place.endswith("/") else [ROOT / place]
        found += [str(path.relative_to(ROOT)) for path in matching]
    return found


def _tests_of(file: str) -> tuple[str, ...]:
    return next(tuple(tests) for place, tests in TESTS.items() if file.startswith(place))


def _copy(tree: Path) -> None:
    """Copy all that git knows or would add; links stay links."""
    list_files = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(list_files, cwd=ROOT, text=True, check=True, stdout=subprocess.PIPE).stdout.split("\n")
    for name in filter(None, listed):
        if (ROOT / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name, follow_symlinks=False)


def _import_libraries() -> None:
    torch.set_num_threads(1)
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _limit(tree: Path, tests: tuple[str, ...]) -> float:
    """Seconds that these tests may take.

    Raises:
        SystemExit: they fail without a wrong line.
    """
    began = time.monotonic()
    status = os.waitstatus_to_exitcode(os.waitpid(_start(tree, tests, keep_bytecode=True), 0)[1])
    if status != 0:
        print(_output(tree).read_text())
        raise SystemExit(f"{', '.join(tests)} fail as they are (exit code {status})")
    return max(LEAST_TIMEOUT_S, TIMEOUT_FACTOR * (time.monotonic() - began))


def _run(lines: list[WrongLine], trees: list[Path], limits: dict[tuple[str, ...], float]) -> list[WrongLine]:
    """Try all; returns those that no test catches."""
    waiting, free = list(reversed(lines)), list(trees)
    running: dict[int, Running] = {}
    survivors: list[WrongLine] = []
    try:
        while waiting or running:
            while waiting and free:
                wrong, tree = waiting.pop(), free.pop()
                right = (tree / wrong.file).read_text()
                (tree / wrong.file).write_text(wrong.source)
                tests = _tests_of(wrong.file)
                child = _start(tree, tests)
                running[child] = Running(wrong, tree, right, time.monotonic() + limits[tests])
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                for late in [each for each, test in running.items() if time.monotonic() > test.deadline]:
                    os.killpg(late, signal.SIGKILL)
                time.sleep(0.05)
                continue
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # what the tests started
            test = running.pop(child)
            (test.tree / test.wrong.file).write_text(test.right)
            free.append(test.tree)
            if os.waitstatus_to_exitcode(status) == 0:
                survivors.append(test.wrong)
                print(f"NOT CAUGHT {test.wrong}", flush=True)
            if (done := len(lines) - len(waiting) - len(running)) % 50 == 0:
                print(f"{done} of {len(lines)} tried, {len(survivors)} not caught", flush=True)
    finally:
        for left in running:  # an interrupt
            os.killpg(left, signal.SIGKILL)
    return survivors


def _output(tree: Path) -> Path:
    return tree.with_suffix(".output")


def _start(tree: Path, tests: tuple[str, ...], keep_bytecode: bool = False) -> int:
    """A process that runs some tests in ``tree``, and leads a group; bytecode of wrong lines must not outlive them."""
    child = os.fork()
    if child:
        return child
    status = 3
    try:
        os.setsid()
        os.chdir(tree)
        output = os.open(_output(tree), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.dont_write_bytecode = not keep_bytecode
        os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "" if keep_bytecode else "1"}
        sys.path.insert(0, str(tree))
        arguments = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(tree), "-k", FAST]
        status = pytest.main([*arguments, *(f"tests/{test}" for test in tests)])
    finally:
        os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
