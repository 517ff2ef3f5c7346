"""Errors that nobody foresaw, wherever they arise in the process: a checkpoint, one line, and the stack in the log."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import SMALL

import machina
from machina.algorithms.impala.learning import ImpalaLearner
from machina.checkpoint import RunDirectory
from machina.errors import out_of_memory
from machina.launch.ending import Ending
from machina.launch.not_finite import SkippedUpdates
from machina.launch.run_view import RunView
from machina.launch.signals import handled_signals
from machina.learner.trained_network import TrainedNetwork
from machina.metrics import read_metrics
from machina.nets.build import NETWORKS
from machina.nets.config import NetworkConfig
from machina.nets.network import ActorCritic, CoreTensors, NetworkInput, NetworkOutput
from machina.specs import EnvSpec

WAYS: dict[str, tuple[type[Any], str, BaseException]] = {
    "the learner": (TrainedNetwork, "step", ValueError("no sense")),
    "what the learner hands over": (ImpalaLearner, "flat_parameters", ValueError("no sense")),
    "a hook": (SkippedUpdates, "note", KeyError("no sense")),
    "sys.exit": (SkippedUpdates, "note", SystemExit("no sense")),
    "no memory": (SkippedUpdates, "note", MemoryError("no sense")),
    "the view": (RunView, "refresh", OSError(28, "no sense")),
    "the goals": (Ending, "look", RuntimeError("no sense")),
}


@pytest.mark.parametrize("place", ["inline", "local"])
@pytest.mark.parametrize("way", WAYS)
def test_what_was_learned_is_saved(way: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, method, error = WAYS[way]
    original, calls = getattr(owner, method), 0

    def strike(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 30:
            raise error
        return original(self, *arguments, **options)

    monkeypatch.setattr(owner, method, strike)
    with pytest.raises(machina.RunFailedError) as failure:
        machina.train("impala", "catch", "defaults", runs_dir=tmp_path, name="run", **SMALL | {"place": place})
    run = RunDirectory.open(tmp_path / "run")
    message = str(failure.value)
    assert message.startswith("the run stopped: ")
    assert "no sense" in message
    assert message.endswith(f"; its stack is in '{run.faults_log}'")
    assert "\n" not in message
    assert "in strike" in run.faults_log.read_text(encoding="utf-8")
    checkpoint = run.latest().checkpoint
    assert 0 < checkpoint.step == read_metrics(run.path)[-1]["env_steps"]
    assert run.status().ended == "a fault"
    monkeypatch.undo()
    steps = checkpoint.step + 10 * SMALL["batch_size"] * SMALL["unroll_length"]
    config = run.config_file
    config.write_text(config.read_text().replace("total_frames: null", f"total_frames: {steps}"))
    assert machina.resume(run.path).env_steps == steps


@pytest.mark.parametrize("place", ["inline", "local"])
def test_memory_that_runs_out_while_learning(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's allocator refuses; the line says what to make smaller, and what was learned is saved."""
    step, calls = TrainedNetwork.step, 0

    def strike(self: TrainedNetwork[Any], *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            torch.empty(2**50)
        step(self, *arguments)

    monkeypatch.setattr(TrainedNetwork, "step", strike)
    with pytest.raises(machina.RunFailedError) as failure:
        machina.train("impala", "catch", "defaults", runs_dir=tmp_path, name="run", **SMALL | {"place": place})
    run = RunDirectory.open(tmp_path / "run")
    assert str(failure.value) == (
        f"the run stopped: out of memory: {2**52} bytes could not be had; use a smaller --batch-size, --unroll-length "
        f"or network, or fewer --envs-per-task; its stack is in '{run.faults_log}'"
    )
    assert run.latest().checkpoint.step == 4 * SMALL["batch_size"] * SMALL["unroll_length"]


GPU = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 8.00 GiB.\nSee documentation"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (torch.OutOfMemoryError(GPU), "out of GPU memory: 20.00 GiB could not be had; use a smaller --batch-size"),
        (
            RuntimeError("CUDA error: out of memory\nmore"),
            "out of GPU memory: CUDA error: out of memory; use a smaller",
        ),
        (MemoryError("Unable to allocate 4.00 TiB for an array"), "out of memory: 4.00 TiB could not be had; use a"),
        (MemoryError(), "out of memory: no more could be had; use a smaller"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ""),
        (ValueError("out of memory"), ""),
    ],
)
def test_errors_of_memory(error: BaseException, line: str) -> None:
    told = out_of_memory(error)
    assert told.startswith(line)
    assert bool(told) == bool(line)
    assert "\n" not in told


class Failing(ActorCritic):
    """Raises in its thirtieth pass with gradients."""

    calls = 0

    def forward(self, inputs: NetworkInput, core_state: CoreTensors) -> NetworkOutput:
        if torch.is_grad_enabled():
            self.calls += 1
            if self.calls == 30:
                raise ValueError("no sense")
        return super().forward(inputs, core_state)


def test_a_learner_in_a_process_that_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked of its ranks any more: they may wait for one another. The state that was kept is saved."""

    def build(spec: EnvSpec, config: NetworkConfig) -> Failing:
        return Failing(spec, config)

    monkeypatch.setattr("machina.learner.learner_group.KEPT_STATE_S", 0.0)
    monkeypatch.setitem(NETWORKS, "failing", build)
    options = SMALL | {"place": "local", "learners": 2, "network_name": "failing"}
    started = time.monotonic()
    with pytest.raises(machina.RunFailedError, match="network 'failing': forward raised ValueError: no sense"):
        machina.train("impala", "catch", "defaults", runs_dir=tmp_path, name="run", **options)
    assert time.monotonic() - started < 60
    run = RunDirectory.open(tmp_path / "run")
    assert run.latest().checkpoint.step > 0


def test_sighup_that_is_ignored_stays_so() -> None:
    asked: list[str] = []
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handled_signals(asked.append):
            signal.raise_signal(signal.SIGHUP)
            assert asked == []
            signal.raise_signal(signal.SIGTERM)
            assert asked == ["SIGTERM received"]
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, former)
