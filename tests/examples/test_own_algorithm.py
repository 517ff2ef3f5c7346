"""The example of an algorithm of one's own learns, and everything that Machina does with algorithms works with it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import machina
from machina.registry import ALGORITHMS

FILE = Path(__file__).parents[2] / "examples" / "own_algorithm.py"


@pytest.fixture
def example() -> Iterator[ModuleType]:
    """The example's module, with its algorithm registered as its program does it."""
    spec = importlib.util.spec_from_file_location("own_algorithm", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["own_algorithm"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    machina.register_algorithm("a2c", "of one's own", module.A2CConfig, module.build)
    yield module
    del ALGORITHMS["a2c"], sys.modules["own_algorithm"]


def test_it_is_short() -> None:
    assert len(FILE.read_text().splitlines()) < 150


@pytest.mark.parametrize("place", ["inline", "local"])
@pytest.mark.usefixtures("example")
def test_it_learns_catch_resumes_and_is_scored(place: str, tmp_path: Path) -> None:
    """Best return 1, random -0.6."""
    sizes: dict[str, Any] = {"envs_per_task": 8, "batch_size": 8, "hidden_sizes": (32,), "learning_rate": 1e-2}
    runtime: dict[str, Any] = {"place": place, "actor_threads": 1, "learner_threads": 1, "precision": "float32"}
    run = machina.train("a2c", "catch", name="run", runs_dir=tmp_path, total_frames=60_000, **sizes, **runtime)
    assert machina.resume(run.path, total_frames=64_000).env_steps >= 64_000
    assert machina.evaluate(run.path, episodes=100, seed=1).mean_returns["catch"] > 0.8
