"""What is found out about a job's sizes before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from machina.buffers.unrolls import UnrollBuffer, to_arrays, unroll_bytes
from machina.envs.builders import describe, parse_environment
from machina.errors import UserError
from machina.hardware import available_memory, processor_vendor
from machina.launch.configuration import job_config
from machina.launch.plan import plan_run
from machina.launch.sizes import Forecast, check_batch_fills, check_memory, forecast
from machina.nets.build import build_network
from machina.nets.config import NetworkConfig
from machina.nets.sizes import network_size
from machina.nets.torsos import Encoder
from machina.specs import ArraySpec, EnvSpec, discrete
from machina.types import BEHAVIOUR_LOGITS

GIB = 2**30


@pytest.mark.parametrize("environment", ["pong", "CartPole-v1", "HalfCheetah-v5", "connect_four", "two_scales"])
@pytest.mark.parametrize("options", [{}, {"lstm_size": 24, "hidden_sizes": (32,)}, {"separate_roles": True}])
def test_sizes_are_those_of_the_real_parts(environment: str, options: dict[str, Any]) -> None:
    spec = parse_environment(environment, describe(environment)()).spec
    config = NetworkConfig(**options)
    network = build_network(spec, config, seed=0)
    size = network_size(spec, config)
    assert size.parameters == sum(tensor.numel() for tensor in network.parameters())
    core = tuple(np.zeros((1, *shape), np.float32) for shape in network.core_state_shapes)
    outputs = {BEHAVIOUR_LOGITS: ArraySpec(shape=(spec.action.num_parameters,), dtype="float32")}
    buffer = UnrollBuffer(spec, outputs, 7, np.zeros(1, np.int64), np.zeros(1, np.int64), core)
    real = sum(array.nbytes for array in to_arrays(buffer.unroll).values())
    assert unroll_bytes(spec, outputs, 7, size.core_state) == real


@pytest.mark.parametrize(
    "shapes",
    [
        {"observation": (84, 84, 4)},
        {"observation": (40, 40, 44)},
        {"observation": (4, 40, 50, 3)},
        {"camera": (40, 50, 3), "depth": (36, 36), "map": (7, 7, 3), "speed": (2,)},
        {"observation": (8, 8, 3)},
    ],
)
@pytest.mark.parametrize("torso", ["auto", "deep", "mlp"])
def test_what_convolutions_answer_is_what_the_network_makes(shapes: dict[str, Any], torso: str) -> None:
    observation = {key: ArraySpec(shape=shape, dtype="uint8") for key, shape in shapes.items()}
    spec = EnvSpec(name="e", tasks=("e",), observation=observation, action=discrete(2))
    config = NetworkConfig.model_validate({"torso": torso})
    made: list[int] = []
    encoder = Encoder(spec, config)
    for layer in encoder.modules():
        if isinstance(layer, nn.Conv2d) and torso != "deep":
            layer.register_forward_hook(lambda *call: made.append(call[2].numel()))
    encoder({key: torch.zeros(1, 1, *shape, dtype=torch.uint8) for key, shape in shapes.items()})
    assert network_size(spec, config).convolved == sum(made)


@pytest.mark.parametrize(
    ("algorithm", "environment", "changes", "share", "least"),
    [
        ("impala", "pong", {"algo": {"unroll_length": 1_000_000}}, "unrolls", 150),
        ("ppo", "CartPole-v1", {"algo": {"network": {"lstm_size": 65_536}}}, "network", 256),
        ("impala", "catch", {"algo": {"batch_size": 1_000_000, "unroll_length": 5000}}, "unrolls", 2000),
        ("impala", "pong", {"env": {"envs_per_task": 100_000}}, "environments", 140),
        ("impala", "CartPole-v1", {"env": {"envs_per_task": 50_000, "processes": True}}, "environments", 900),
        ("impala", "pong", {"runtime": {"queue_unrolls": 200_000}}, "unrolls", 30),
        (
            "ppo",
            "connect_four",
            {
                "league": {"snapshot_updates": 1, "opponents_in_memory": 10_000},
                "total_frames": 10**9,
                "algo": {"network": {"lstm_size": 1024}},
            },
            "network",
            80,
        ),
        ("ppo", "pong", {"algo": {"network": {"filters": (4096,), "kernels": (1,), "strides": (1,)}}}, "network", 27),
    ],
)
def test_what_does_not_fit_is_refused_with_the_forecast(
    algorithm: str, environment: str, changes: dict[str, Any], share: str, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("machina.launch.sizes.available_memory", lambda: 24 * GIB)
    config, _ = job_config(algorithm, environment, "defaults", **changes)
    plan = plan_run(config)
    needed = forecast(plan)
    assert getattr(needed, share) >= least * GIB
    assert getattr(needed, share) == max(needed)
    with pytest.raises(UserError, match=r"at least [\d,.]+ GiB of memory \(environments .* 24.0 GiB are free; use "):
        check_memory(plan)


@pytest.mark.parametrize(("algorithm", "environment"), [("impala", "pong"), ("ppo", "CartPole-v1"), ("ppo", "battle")])
def test_shipped_jobs_fit_into_a_small_machine(
    algorithm: str, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("machina.launch.sizes.available_memory", lambda: 2 * GIB)
    config, _ = job_config(algorithm, environment, None)
    check_memory(plan_run(config))
    check_batch_fills(plan_run(config))


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"runtime": {"queue_unrolls": 100}}, "unrolls"),
        ({"league": {"snapshot_updates": 1}}, "network"),
    ],
)
def test_what_a_run_can_t_fill_is_not_counted(changes: dict[str, Any], more: str) -> None:
    """A queue longer than all unrolls of the run, more opponents than it takes snapshots."""

    def needed(frames: int, **changes: Any) -> Forecast:
        config, _ = job_config("ppo", "connect_four", "defaults", **changes, total_frames=frames)
        return forecast(plan_run(config))

    short = steps_of_an_update("ppo", "connect_four") - 1
    assert needed(short, **changes) == needed(short)
    plain, asked = needed(100 * short), needed(100 * short, **changes)
    assert getattr(asked, more) > getattr(plain, more)
    assert [name for name in plain._fields if getattr(plain, name) != getattr(asked, name)] == [more]


def steps_of_an_update(algorithm: str, environment: str) -> int:
    """Env steps of a batch."""
    config, _ = job_config(algorithm, environment, "defaults")
    return int(plan_run(config).batch_size * config.algo.unroll_length)


def test_a_batch_that_never_fills() -> None:
    config, _ = job_config("ppo", "CartPole-v1", None, algo={"unroll_length": 100_000})
    with pytest.raises(
        UserError, match=r"a batch is 3,200,000 env steps, and the whole run only 300,000; use a smaller"
    ):
        check_batch_fills(plan_run(config))


@pytest.mark.parametrize("version", [1, 2])
def test_free_memory_is_cut_by_control_groups(version: int, tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 64 kB\nMemAvailable:   33554432 kB\n")
    root = groups if version == 2 else groups / "memory"
    inner = root / "slice" / "job"
    inner.mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(
        "0::/slice/job\n" if version == 2 else "5:cpu,cpuacct:/slice/job\n3:memory:/slice/job\n1:name=systemd:/\n"
    )
    assert available_memory(groups, proc) == 32 * GIB
    limit, usage, cache = (
        ("memory.max", "memory.current", "inactive_file")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    )
    for folder, allowed in ((inner, "max" if version == 2 else str(2**63 - 4096)), (inner.parent, str(8 * GIB))):
        (folder / limit).write_text(f"{allowed}\n")
        (folder / usage).write_text(f"{3 * GIB}\n")
        (folder / "memory.stat").write_text(f"anon 7\n{cache} {GIB}\n")
    assert available_memory(groups, proc) == 6 * GIB, "of the group around it, without files that are only cached"
    (inner / limit).write_text(f"{GIB}\n")
    assert available_memory(groups, proc) == 0


def test_the_processor_s_vendor(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    assert processor_vendor(cpuinfo) == ""
    cpuinfo.write_text("processor\t: 0\nBogoMIPS\t: 50.00\n")
    assert processor_vendor(cpuinfo) == "", "as on ARM"
    cpuinfo.write_text("processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel\t\t: 17\n")
    assert processor_vendor(cpuinfo) == "AuthenticAMD"
