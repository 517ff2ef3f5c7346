"""The model behind the section "Scale" of docs/benchmarks.md."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[1] / "benchmarks" / "scale_model.py"


@pytest.fixture(scope="module")
def model() -> Any:
    """benchmarks/ is no package."""
    spec = importlib.util.spec_from_file_location("scale_model", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scale_model"] = module
    spec.loader.exec_module(module)
    return module


def costs(model: Any) -> Any:
    """Round numbers: a millisecond and more per round, ten per update."""
    return model.Costs(*[model.Cost(1e-3 * number, 1e-2) for number in range(1, 7)])


def test_the_costs_behind_two_measurements(model: Any) -> None:
    cost = model.told_apart(small=3 + 0.5 * 4, large=3 + 0.125 * 4, small_updates=0.5, large_updates=0.125)
    assert cost == pytest.approx((3, 4))


def test_noise_gives_no_negative_cost(model: Any) -> None:
    assert model.told_apart(small=3.0, large=3.1, small_updates=0.5, large_updates=0.125) == (3.0, 0.0)


def test_a_cluster_of_64_actors_by_hand(model: Any) -> None:
    """Two nodes; each actor hands over 10 unrolls of 100 bytes in 0.5 s; 10 updates/s of 1,000 bytes each."""
    size = model.cluster_size(64, costs(model), model.Workload(100, 1_000, 10, 0.5))
    assert size.nodes == 2
    assert size.unrolls == 1_280
    assert size.batch == 128
    assert size.driver == pytest.approx(128 * 0.001 + 10 * 0.01)
    assert size.learner_raylet == pytest.approx(128 * 0.005 + 10 * 0.01 * 2), "parameters go to both nodes"
    assert size.ingest_bytes == 128_000
    assert size.parameter_bytes == 20_000
    assert size.learner_store_bytes == 2 * 128 * 100
    assert size.store_bytes == 128 * 100 + 640 * 100 + size.learner_store_bytes + 2 * 6 * 1_000


def test_a_limit_holds_for_the_most_actors_and_not_for_one_more(model: Any) -> None:
    work = model.Workload(100, 1_000, 10, 0.5)
    for limit in model.LIMITS:
        most = model.most_actors(limit, costs(model), work)
        assert limit.load(model.cluster_size(most, costs(model), work)) <= limit.most
        assert limit.load(model.cluster_size(most + 1, costs(model), work)) > limit.most
