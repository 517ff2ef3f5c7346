"""Whether two unrolls of a slot follow one another shows in their ``start``, and nowhere else."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import gymnasium
import pytest
from actor_groups import next_batch, running

from machina.actors.slot_group import COUNTERS

T = 5


def test_unrolls_that_follow_one_another_start_t_later() -> None:
    with running("catch", "inline", {"batch_size": 3, "unroll_length": T}, {"envs_per_task": 3}) as job:
        batches = [next_batch(job.actors) for _ in range(4)]
    assert [batch.start.tolist() for batch in batches] == [[T * number] * 3 for number in range(4)]
    assert batches[0].weight.tolist() == [1.0] * 3


def test_after_a_resume_without_the_environments_state_the_next_unroll_starts_elsewhere() -> None:
    """An unroll from before the end would seem to be continued by another episode."""
    sizes = {"batch_size": 3, "unroll_length": T}
    with running("catch", "inline", sizes, {"envs_per_task": 3}) as job:
        before = next_batch(job.actors)
        state = job.actors.group.state()
    counters = {key: array for key, array in state.items() if key.endswith(COUNTERS) and "seating" not in key}
    with running("catch", "inline", sizes, {"envs_per_task": 3}, state=counters) as job:
        assert (next_batch(job.actors).start == before.start + T + 1).all()


def test_where_an_environment_was_replaced_the_next_unroll_starts_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was cut short is lost; a window over both would join two different episodes."""
    monkeypatch.chdir(Path(__file__).parents[1])
    once = {"fault": "raises", "at": 8, "marker": str(tmp_path / "struck")}
    gymnasium.register("RaisesOnce-v0", "faulty_env:Faulty", kwargs=once)
    sizes = {"batch_size": 1, "unroll_length": T}
    with running("RaisesOnce-v0", "inline", sizes, {"envs_per_task": 1, "processes": False}) as job:
        starts = [int(next_batch(job.actors).start[0]) for _ in range(5)]
    assert starts[:2] == [0, 8], "the second unroll was cut short by the fault of its fourth step"
    assert [later - earlier for earlier, later in pairwise(starts[1:])] == [T] * 3
