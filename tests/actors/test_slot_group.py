"""How slots are shared among actors, and the room in the queue that follows."""

from __future__ import annotations

import numpy as np
import pytest

from machina.actors.slots import assign_slots, buffer_sizes
from machina.config import RuntimeConfig
from machina.errors import UserError
from machina.specs import EnvSpec, Seat, discrete
from machina.types import IntArray


def capacity(slots: list[list[IntArray]], runtime: RuntimeConfig, batch_size: int) -> int:
    return buffer_sizes(slots, runtime, batch_size, 5, None, total_env_steps=100, seed=1).capacity


def spec_of(num_tasks: int, *, seats: int = 0) -> EnvSpec:
    """An environment that nobody builds."""
    return EnvSpec(
        name="e",
        tasks=tuple(str(task) for task in range(num_tasks)),
        seats=tuple(Seat(agent=str(seat), role=seat % num_tasks, team=seat % 2) for seat in range(seats)),
        observation={},
        action=discrete(2),
    )


@pytest.mark.parametrize("actors", [1, 2, 3])
def test_the_slots_of_a_game_stay_together(actors: int) -> None:
    spec = spec_of(2, seats=3)
    groups = [group for actor in assign_slots(spec, 7, actors) for group in actor]
    assert np.concatenate(groups).tolist() == list(range(21))
    assert all(group[0] % 3 == 0 and len(group) % 3 == 0 for group in groups)
    assert [spec.task_of(slot) for slot in range(4)] == [0, 1, 0, 0]


@pytest.mark.parametrize("num_tasks", [1, 2, 3, 57])
@pytest.mark.parametrize("envs_per_task", [1, 3, 4])
@pytest.mark.parametrize("actors", [1, 2, 3])
def test_every_task_has_the_same_share_and_neighbours_differ(num_tasks: int, envs_per_task: int, actors: int) -> None:
    total = num_tasks * envs_per_task
    if total < actors:
        with pytest.raises(UserError, match=f"actors={actors}: only {total} environments"):
            assign_slots(spec_of(num_tasks), envs_per_task, actors)
        return
    groups = [group for actor in assign_slots(spec_of(num_tasks), envs_per_task, actors) for group in actor]
    slots = np.concatenate(groups)
    assert slots.tolist() == list(range(total)), "every slot once, in order"
    assert min(map(len, groups)) >= 1
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
    tasks = slots % num_tasks
    assert np.bincount(tasks, minlength=num_tasks).tolist() == [envs_per_task] * num_tasks
    if num_tasks > 1:
        assert (tasks[1:] != tasks[:-1]).all()


@pytest.mark.parametrize(("envs", "actors", "groups"), [(1, 1, 1), (2, 1, 2), (3, 2, 1), (4, 2, 2)])
def test_two_groups_per_actor_when_there_are_slots_for_them(envs: int, actors: int, groups: int) -> None:
    assert [len(actor) for actor in assign_slots(spec_of(1), envs, actors)] == [groups] * actors


@pytest.mark.parametrize("batch_size", [1, 4, 7, 32])
@pytest.mark.parametrize("envs_per_task", [1, 3, 16, 50])
def test_a_full_queue_always_holds_a_batch(batch_size: int, envs_per_task: int) -> None:
    most = capacity(assign_slots(spec_of(1), envs_per_task, 1), RuntimeConfig(), batch_size)
    largest = max(len(group) for actor in assign_slots(spec_of(1), envs_per_task, 1) for group in actor)
    # An actor waits when its unrolls would not fit; the learner must be able to continue then.
    assert most - largest + 1 >= batch_size


def test_too_small_a_queue_is_refused() -> None:
    slots = assign_slots(spec_of(1), 6, 1)
    assert capacity(slots, RuntimeConfig(queue_unrolls=10), 8) == 10
    with pytest.raises(UserError, match=r"queue_unrolls=9: .* use at least 10"):
        capacity(slots, RuntimeConfig(queue_unrolls=9), 8)
