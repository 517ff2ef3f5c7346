"""The learner group with real rank processes: equal to one rank, and alive after a kill."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

import machina
from machina.checkpoint import RunDirectory
from machina.errors import RunFailedError
from machina.interfaces import LearnerState
from machina.launch.configuration import job_config
from machina.launch.places import OneMachine
from machina.launch.plan import plan_run
from machina.learner.learner_group import LearnerGroup, Lost, Updated

UPDATES = 25
ALGO = {"batch_size": 8, "unroll_length": 5}


def model_of(tmp_path: Path, **options: int) -> dict[str, torch.Tensor]:
    """The model after some updates in lock-step."""
    name = f"{options}"
    frames = UPDATES * ALGO["batch_size"] * ALGO["unroll_length"]
    common = {"envs_per_task": 8, "lock_step": True, "precision": "float32", "learner_threads": 1, **ALGO}
    run = machina.train(
        "impala_popart", "catch", "defaults", runs_dir=tmp_path, name=name, total_frames=frames, **common, **options
    )
    assert run.updates == UPDATES
    return dict(RunDirectory.open(tmp_path / name).latest().checkpoint.tensors["model"])


def test_two_ranks_in_processes_train_as_one(tmp_path: Path) -> None:
    one = model_of(tmp_path)
    two = model_of(tmp_path, learners=2)
    assert one.keys() == two.keys()
    for key, tensor in one.items():
        # The same sums in another order, 25 updates of RMSProp.
        torch.testing.assert_close(two[key], tensor, rtol=1e-4, atol=1e-5)


def kill_rank(name: str) -> None:
    """End a rank's process as an out-of-memory killer does."""
    process = next(child for child in multiprocessing.active_children() if child.name == name)
    process.kill()
    process.join(10)


def test_a_killed_rank_restarts_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("machina.learner.learner_group.KEPT_STATE_S", 0.0)
    faults: list[str] = []
    config, _ = job_config(
        "impala", "catch", "defaults", algo=ALGO, runtime={"learners": 2, "learner_threads": 1, "max_restarts": 1}
    )
    place = OneMachine(plan_run(config))
    inline = config.runtime.model_copy(update={"place": "inline"})
    learners = place.make_learners(faults.append, lambda: False)
    actors = OneMachine(plan_run(config.model_copy(update={"runtime": inline}))).make_actors()
    try:
        actors.store.publish(0, learners.parameters(), done=0.0)
        actors.group.start({})

        def update() -> list[Updated | Lost]:
            batch = actors.group.next_batch(0, 60)
            assert batch is not None
            return learners.submit(batch, 0.0)

        made = [answer for _ in range(6) for answer in update()] + learners.drain()
        assert all(isinstance(answer, Updated) for answer in made)
        assert len(made) == 6
        state = learners.state()
        kill_rank("learner rank 1")
        lost = update() + learners.drain()
        assert lost, "the batch went down with the ranks"
        assert all(isinstance(answer, Lost) for answer in lost)
        assert learners.restarts == 1
        assert len(faults) == 1
        assert faults[0].startswith("learner rank 1 was killed by SIGKILL (out of memory?)")
        assert learners.state().values == state.values
        torch.testing.assert_close(learners.state().tensors["model"], state.tensors["model"], rtol=0, atol=0)
        monkeypatch.setattr(
            "machina.learner.learner_group.KEPT_STATE_S", 1000.0
        )  # keeping the state would wait as well
        assert not update()
        assert learners.skipped_batch() is None, "asked while an update is under way, it waits for that one"
        again = update() + learners.drain()
        assert [type(answer) for answer in again] == [Updated]

        kill_rank("learner rank 1")
        with pytest.raises(RunFailedError, match=r"learner rank 1 was killed .* 2 times \(max_restarts\)"):  # noqa: PT012
            update()
            learners.drain()
        assert not learners.drain()
        saved = learners.state()
        assert saved.values == state.values, "what was kept last is there for a checkpoint"
        torch.testing.assert_close(saved.tensors["model"], state.tensors["model"], rtol=0, atol=0)
    finally:
        actors.group.close()
        learners.close()
    assert not multiprocessing.active_children()


def test_a_frozen_rank_does_not_hold_the_end_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU that hangs: the process lives and says nothing. What was kept of the learner's state is saved."""
    monkeypatch.setattr("machina.learner.learner_group.KEPT_STATE_S", 0.0)
    monkeypatch.setattr("machina.learner.learner_group.LAST_UPDATE_S", 0.5)
    ended: list[float] = []
    keep = LearnerGroup._keep

    def end() -> None:
        ended.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    def freeze_and_ask_for_the_end(self: LearnerGroup, state: LearnerState) -> None:
        keep(self, state)
        if state.values["updates"] == 3:
            (rank,) = (child for child in multiprocessing.active_children() if child.name == "learner rank 1")
            assert rank.pid is not None
            os.kill(rank.pid, signal.SIGSTOP)
            threading.Timer(0.5, end).start()

    monkeypatch.setattr(LearnerGroup, "_keep", freeze_and_ask_for_the_end)
    options = {**ALGO, "envs_per_task": 8, "learners": 2, "learner_threads": 1, "precision": "float32"}
    with pytest.raises(RunFailedError, match=r"learner rank [01]: no answer for 0\.5 s after the end of the run was"):
        machina.train("impala", "catch", "defaults", runs_dir=tmp_path, name="run", **options)
    assert time.monotonic() - ended[0] < 10
    assert RunDirectory.open(tmp_path / "run").latest().checkpoint.values["learner"]["updates"] == 3
    assert not multiprocessing.active_children()
