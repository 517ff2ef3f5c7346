"""How the cores of a machine are shared out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from machina.errors import UserError
from machina.launch.configuration import job_config
from machina.launch.plan import plan_run


@pytest.mark.parametrize(
    ("algorithm", "environment", "runtime", "threads", "groups"),
    [
        ("impala", "pong", {}, 4, 2),
        ("impala", "pong", {"place": "inline"}, 8, 2),
        ("impala", "pong", {"learners": 2}, 2, 2),
        ("ppo", "pong", {}, 8, 1),
        ("ppo", "pong", {"learners": 2}, 4, 1),
        ("ppo", "pong", {"learner_threads": 3}, 3, 1),
        ("ppo", "connect_four", {}, 4, 2),
    ],
)
def test_a_learner_of_several_passes_over_images_gets_all_cores(
    algorithm: str,
    environment: str,
    runtime: dict[str, Any],
    threads: int,
    groups: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then actors gain nothing by two groups, and lose by small batches."""
    monkeypatch.setattr("machina.launch.plan.available_cores", lambda: 8)
    config, _ = job_config(algorithm, environment, "defaults", runtime=runtime)
    machine = plan_run(config).machine
    assert (machine.learner_threads, machine.groups_per_actor) == (threads, groups)


@pytest.mark.parametrize(
    ("device", "place", "line"), [("cuda", "ray", "learning in the cluster"), ("cpu", "local", "learning on cpu")]
)
def test_a_driver_without_a_gpu_starts_learners_that_have_one(device: str, place: str, line: str) -> None:
    """What the cluster has is found out when it is joined; this machine's devices say nothing about it."""
    config, _ = job_config("impala", "catch", "defaults", runtime={"device": device, "place": place})
    assert f"; {line}" in plan_run(config).machine.line()


@pytest.mark.parametrize(
    ("device", "place", "asked"),
    [("auto", "ray", "auto"), ("cuda:1", "ray", "auto"), ("cpu", "ray", "cpu"), ("cpu", "local", "cpu")],
)
def test_the_memory_of_a_learner_is_foretold_for_the_device_it_may_get_here(
    device: str, place: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--place ray` on a machine with a GPU the learner is on it, and takes no memory of the processor's."""
    names: list[str] = []

    def resolved(name: str) -> torch.device:
        names.append(name)
        return torch.device("cpu")

    monkeypatch.setattr("machina.launch.plan.resolve_device", resolved)
    config, _ = job_config("impala", "catch", "defaults", runtime={"device": device, "place": place})
    plan_run(config)
    assert names[0] == asked


def test_an_unknown_device_is_refused_before_a_cluster_is_joined() -> None:
    config, _ = job_config("impala", "catch", "defaults", runtime={"device": "tpu", "place": "ray"})
    with pytest.raises(UserError, match="device 'tpu' is unknown"):
        plan_run(config)
