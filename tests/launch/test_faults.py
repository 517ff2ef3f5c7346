"""Environments and networks that fail: the run continues and says so, or stops with the cause and a good checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from processes import start
from runs import SMALL, last_checkpoint
from safetensors.numpy import load_file

import machina
from machina.checkpoint import load_checkpoint
from machina.metrics import read_metrics
from machina.nets.build import NETWORKS
from machina.nets.config import NetworkConfig
from machina.nets.network import ActorCritic, CoreTensors, NetworkInput, NetworkOutput
from machina.specs import EnvSpec

ENVS = 4
"""In two groups of two."""
UPDATES = 20
FRAMES = UPDATES * SMALL["batch_size"] * SMALL["unroll_length"]
MESSAGES = {
    "raises": "step raised RuntimeError: the engine stalled",
    "nan": "observation of slot 0 (task 'Faulty-v0') is not finite",
    "nan_reward": "reward of slot 0 (task 'Faulty-v0') is not finite",
    "shape": "observation has shape (3,), its space has (2,)",
}

Register = Callable[..., str]


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Register]:
    """Registers Faulty-v0, whose fault strikes once."""

    def register(fault: str, **options: Any) -> str:
        arguments = {"fault": fault, "marker": str(tmp_path / "struck"), **options}
        gymnasium.register("Faulty-v0", "faulty_env:Faulty", kwargs=arguments)
        return "Faulty-v0"

    yield register
    gymnasium.registry.pop("Faulty-v0", None)


def train(environment: str, runs_dir: Path, **options: Any) -> machina.jobs.api.TrainedRun:
    defaults = {**SMALL, "processes": False, "envs_per_task": ENVS, "total_frames": FRAMES, "batch_size": 4}
    return machina.train("impala", environment, name="run", runs_dir=runs_dir, **{**defaults, **options})


@pytest.mark.parametrize("place", ["inline", "local"])
@pytest.mark.parametrize("fault", MESSAGES)
def test_the_run_continues_with_another_environment(
    fault: str, place: str, register: Register, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(register(fault), tmp_path, place=place)
    assert (run.reason, run.updates) == ("the schedule is complete", UPDATES)
    notices = [line for line in capsys.readouterr().out.splitlines() if line.startswith("replaced: ")]
    assert len(notices) == 1
    assert "'Faulty-v0'" in notices[0]
    assert MESSAGES[fault] in notices[0]
    last = read_metrics(run.path)[-1]
    assert last["faults/replaced"] == 1
    # It strikes at the third step of the first unroll: two steps of two slots are lost.
    assert last["faults/env_steps_cut"] == 4
    assert last["episode_return/Faulty-v0"] == 8


@pytest.mark.parametrize("processes", [True, False])
def test_a_hanging_environment_is_not_waited_for(
    processes: bool, register: Register, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    run = train(register("sleeps"), tmp_path, place="local", processes=processes, step_timeout_s=2.5)
    assert run.updates == UPDATES
    assert time.monotonic() - started < 60
    notices = [line for line in capsys.readouterr().out.splitlines() if line.startswith("replaced: ")]
    assert notices == ["replaced: environment 'Faulty-v0': no answer for 2.5 s"]
    last = read_metrics(run.path)[-1]
    assert (last["faults/replaced"], last["faults/env_steps_cut"]) == (1, 4)


@pytest.mark.parametrize("place", ["inline", "local"])
def test_after_max_restarts_the_run_stops_with_the_cause(place: str, tmp_path: Path) -> None:
    """The fault strikes at every third step; unrolls of one step give some updates before."""
    with pytest.raises(machina.RunFailedError) as failure:
        train("faulty_env:Raises-v0", tmp_path, place=place, max_restarts=3, unroll_length=1, batch_size=1)
    message = str(failure.value)
    assert "environment 'faulty_env:Raises-v0': step raised RuntimeError: the engine stalled" in message
    assert "4 times (max_restarts)" in message
    assert "\n" not in message
    checkpoint = load_checkpoint(last_checkpoint(tmp_path / "run"))
    assert checkpoint.values["progress"]["updates"] > 0
    assert checkpoint.values["progress"]["faults"] == 4


@pytest.mark.filterwarnings("ignore:.*ERROR:UserWarning")  # gymnasium's account of its workers
@pytest.mark.parametrize("place", ["inline", "local"])
@pytest.mark.parametrize("processes", [True, False])
def test_an_environment_that_never_starts_fails_the_run(place: str, processes: bool, tmp_path: Path) -> None:
    with pytest.raises(machina.RunFailedError, match=r"NoStart-v0': reset raised .*; the run can't start"):
        train("faulty_env:NoStart-v0", tmp_path, place=place, processes=processes)


def test_a_hanging_first_reset_fails_the_run(tmp_path: Path) -> None:
    options = {"place": "local", "step_timeout_s": 0.2, "envs_per_task": 2}
    with pytest.raises(machina.RunFailedError, match=r"NeverStarts-v0': no answer for 2\.2 s; the run can't start"):
        train("faulty_env:NeverStarts-v0", tmp_path, **options)


def test_an_environment_that_fails_in_evaluation_gives_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train("faulty_env:Sound-v0", tmp_path, step_timeout_s=1.0)
    kwargs = gymnasium.registry["Sound-v0"].kwargs
    monkeypatch.setitem(kwargs, "fault", "raises")
    with pytest.raises(
        machina.RunFailedError, match=r"evaluation stopped: .*'faulty_env:Sound-v0'.*the engine stalled"
    ):
        machina.evaluate(run.path, episodes=3)
    monkeypatch.setitem(kwargs, "fault", "sleeps")
    with pytest.raises(machina.RunFailedError, match=r"evaluation stopped: .*'faulty_env:Sound-v0': no answer for 1 s"):
        machina.evaluate(run.path, episodes=3)


def test_a_failing_evaluation_does_not_end_the_run(
    register: Register, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fault strikes at step 7, which unrolls of 5 steps reach in training: 4 faults; then in each evaluation."""
    environment = register("raises", at=7, marker=None)
    run = train(environment, tmp_path, max_restarts=1000, eval_every=FRAMES // 2, total_frames=FRAMES)
    assert run.updates == UPDATES
    notices = [line for line in capsys.readouterr().out.splitlines() if line.startswith("no evaluation: ")]
    assert len(notices) == 2
    assert "the engine stalled" in notices[0]
    assert not (run.path / "checkpoints" / "best.json").exists()


def test_losses_that_overflow_stop_the_run_with_the_batch(tmp_path: Path) -> None:
    with pytest.raises(machina.RunFailedError, match="10 updates in a row gave NaN or infinity") as failure:
        # Every unroll of 10 steps holds such a reward.
        train("faulty_env:Enormous-v0", tmp_path, reward_clip="none", unroll_length=10, batch_size=2)
    file = next((tmp_path / "run").glob("nan-batch-*.safetensors"))
    assert str(file) in str(failure.value)
    assert load_file(file)["reward"].max() == np.float32(3e38)
    checkpoint = load_checkpoint(last_checkpoint(tmp_path / "run"))
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint.tensors["model"].values())
    lines = read_metrics(tmp_path / "run")
    assert (lines[-1]["learner/skipped"] or 0) > 0
    assert lines[-1]["learner/total_loss"] is None, "what is not finite is no number in the file"


@pytest.mark.parametrize("processes", [True, False])
@pytest.mark.parametrize("environment", ["Raises-v0", "NoStart-v0"])
def test_the_command_fails_with_one_line(environment: str, processes: bool, tmp_path: Path) -> None:
    """A worker's traceback is gymnasium's, not ours to print."""
    options = ("--max-restarts", "2", "--envs-per-task", "2", "--processes", str(processes), "--runs-dir", tmp_path)
    folder = Path(__file__).parents[1]  # of faulty_env
    process = start("train", "impala", f"faulty_env:{environment}", *options, "--name", "run", cwd=folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.startswith(f"machina: environment 'faulty_env:{environment}'")
    assert err.count("\n") == 1
    assert "Traceback" not in out


class Broken(ActorCritic):
    """Its values are NaN."""

    def forward(self, inputs: NetworkInput, core_state: CoreTensors) -> NetworkOutput:
        output = super().forward(inputs, core_state)
        return output._replace(values=output.values * float("nan"))


@pytest.fixture
def broken_network() -> Iterator[str]:
    def build(spec: EnvSpec, config: NetworkConfig) -> Broken:
        return Broken(spec, config)

    machina.register_network("broken", build)
    yield "broken"
    del NETWORKS["broken"]


@pytest.mark.parametrize("place", ["inline", "local"])
def test_a_network_that_gives_nan_stops_the_run(place: str, broken_network: str, tmp_path: Path) -> None:
    with pytest.raises(machina.RunFailedError, match="10 updates in a row gave NaN or infinity"):
        machina.train(
            "impala", "catch", name="run", runs_dir=tmp_path, **SMALL | {"place": place}, network_name=broken_network
        )
    assert list((tmp_path / "run").glob("nan-batch-*.safetensors"))
