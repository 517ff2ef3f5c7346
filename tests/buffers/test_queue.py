"""The queue against a naive twin, under back-pressure and among threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from machina.buffers.buffer import Batch, BufferClosedError, BufferSizes, Handover, Part, joined
from machina.buffers.queue import UnrollQueue
from machina.buffers.unrolls import from_arrays, to_arrays
from machina.types import BEHAVIOUR_LOGITS, Array, Learned, Unroll

ENTRIES = 3


def unroll(serials: Sequence[int]) -> Unroll[Array]:
    """One slot per serial number, which stands in every array."""
    numbers = np.array(serials, np.int64)

    def over_time(dtype: type) -> Array:
        return np.tile(numbers, (ENTRIES, 1)).astype(dtype)

    return Unroll(
        observation={"observation": np.tile(numbers[None, :, None], (ENTRIES, 1, 2)).astype(np.float32)},
        reward=over_time(np.float32),
        terminated=over_time(np.bool_),
        truncated=over_time(np.bool_),
        team_reward=over_time(np.float32),
        enemy_reward=over_time(np.float32),
        life_lost=over_time(np.bool_),
        on_turn=over_time(np.bool_),
        foreign=over_time(np.bool_),
        action=over_time(np.int64),
        policy_outputs={BEHAVIOUR_LOGITS: np.tile(numbers[None, :, None], (ENTRIES, 1, 2)).astype(np.float32)},
        core_state=(numbers[:, None].astype(np.float32),),
        previous_action=numbers.copy(),
        first=numbers.astype(np.bool_),
        task_id=numbers.copy(),
        slot=numbers.copy(),
        policy_version=numbers.copy(),
        start=numbers.copy(),
        weight=numbers.astype(np.float32),
    )


def handover(serials: Sequence[int], order: int | None = None, version: int = 0) -> Handover:
    """An unroll on its way, whose buffer nobody wants back."""
    return Handover(unroll(serials), len(serials), version, keep, serials[0], order)


def taken(batch: Batch | None) -> list[int]:
    """The serial numbers of a batch, which is read and released as a learner does."""
    assert batch is not None
    serials = serials_of(joined(batch.parts))
    batch.release()
    return serials


def serials_of(batch: Unroll[Array]) -> list[int]:
    """The slots' serial numbers; every array must agree on them."""
    numbers = batch.slot.tolist()
    got = to_arrays(batch)
    for name, expected in to_arrays(unroll(numbers)).items():
        np.testing.assert_array_equal(got[name], expected, err_msg=name)
    return [int(number) for number in numbers]


def keep() -> None:
    """Nobody wants the buffer back."""


def overwriting(item: Unroll[Array], released: list[int], index: int) -> Callable[[], None]:
    """Does what an actor does with a released buffer: fills it again."""

    def release() -> None:
        released.append(index)
        for array in (item.reward, item.action, item.slot, item.core_state[0], item.observation["observation"]):
            array[...] = -1

    return release


def queue_of(batch_size: int, capacity: int | None = None, max_policy_lag: int | None = None) -> UnrollQueue:
    """With a capacity ``put`` waits; without one there is always room."""
    sizes = BufferSizes(
        batch_size, ENTRIES - 1, capacity or 10**6, max_policy_lag, capacity is not None, 8, 10**6, seed=1
    )
    return UnrollQueue(sizes)


def account(accepted: int, learned: int, dropped: int, queued: int) -> dict[str, int]:
    return {"accepted": accepted, "learned": learned, "dropped": dropped, "queued": queued}


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_list_under_random_operations(seed: int) -> None:
    random = np.random.default_rng(seed)
    batch_size = 2 * seed + 1
    queue = queue_of(batch_size, capacity=17)
    twin: list[int] = []
    accepted = learned = puts = 0
    ends: list[int] = []
    released: list[int] = []
    for _ in range(400):
        if random.random() < 0.6:
            size = int(random.integers(1, 6))
            if len(twin) + size > 17:
                continue
            item = unroll(range(accepted, accepted + size))
            queue.put(Handover(item, size, 0, overwriting(item, released, puts), 0))
            twin += range(accepted, accepted + size)
            accepted += size
            ends.append(accepted)
            puts += 1
        else:
            assert queue.holds_batch == (len(twin) >= batch_size)
            batch = queue.take(0, timeout_s=0)
            if len(twin) < batch_size:
                assert batch is None
            else:
                assert batch is not None
                assert queue.account() == account(accepted, learned, 0, len(twin)), "queued until it is settled"
                assert taken(batch) == twin[:batch_size]
                queue.settle(batch, Learned({}))
                del twin[:batch_size]
                learned += batch_size
        assert queue.account() == account(accepted, learned, 0, len(twin))
        assert (queue.accepted, queue.num_queued) == (accepted, len(twin))
        assert queue.env_steps == learned * (ENTRIES - 1)
        assert released == list(range(sum(end <= learned for end in ends))), "released once, when all slots were taken"
        waiting = queue.state()
        assert (serials_of(from_arrays(waiting)) if waiting else []) == twin
        again = queue_of(batch_size=max(1, len(twin)))
        again.load_state(waiting)
        assert again.num_queued == len(twin)
        if twin:
            assert taken(again.take(0, timeout_s=0)) == twin
    assert learned > 100


def test_what_waited_before_a_resume_comes_before_all_that_is_put_after_it() -> None:
    """In lock-step, orders begin with each session's first round; two versions are loaded as two pieces."""
    saved = queue_of(batch_size=4)
    for serials, version in (([1, 2], 0), ([3], 1)):
        saved.put(handover(serials, version=version))
    queue = queue_of(batch_size=1)
    queue.load_state({name: array.copy() for name, array in saved.state().items()})
    queue.put(handover([9], order=0))
    assert [taken(queue.take(0, timeout_s=0)) for _ in range(4)] == [[1], [2], [3], [9]]


def test_ranked_unrolls_come_by_rank_and_a_begun_one_stays_first() -> None:
    queue = queue_of(batch_size=1)
    for order, serials in [(20, [4, 5]), (10, [2, 3]), (30, [6])]:
        queue.put(handover(serials, order))
    assert taken(queue.take(0, timeout_s=0)) == [2]
    queue.put(handover([0, 1], order=0))
    rest = [taken(queue.take(0, timeout_s=0)) for _ in range(6)]
    assert rest == [[3], [0], [1], [4], [5], [6]]


def test_put_waits_while_the_queue_is_full_and_nothing_is_dropped() -> None:
    queue = queue_of(batch_size=1, capacity=4)
    queue.put(handover([0, 1, 2]))
    entered, passed = threading.Event(), threading.Event()

    def put() -> None:
        entered.set()
        queue.put(handover([3, 4]))
        passed.set()

    thread = threading.Thread(target=put)
    thread.start()
    assert entered.wait(5)
    assert not passed.wait(0.1)
    assert queue.account() == account(3, 0, 0, 3)
    batches = [queue.take(0, timeout_s=0)]
    assert passed.wait(5)
    thread.join()
    batches += [queue.take(0, timeout_s=0) for _ in range(4)]
    assert [taken(batch) for batch in batches] == [[0], [1], [2], [3], [4]]
    for batch in batches:
        assert batch is not None
        queue.settle(batch, Learned({}))
    assert queue.account() == account(5, 5, 0, 0)


def test_close_wakes_who_waits_and_refuses_more() -> None:
    queue = queue_of(batch_size=1, capacity=1)
    queue.put(handover([0]))
    outcome: list[str] = []

    def put() -> None:
        try:
            queue.put(handover([1]))
        except BufferClosedError:
            outcome.append("closed")

    thread = threading.Thread(target=put)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    queue.close()
    thread.join(5)
    assert outcome == ["closed"]
    with pytest.raises(BufferClosedError):
        queue.put(handover([2]))
    assert queue.account() == account(1, 0, 0, 1)


def test_take_waits_for_a_put_and_gives_up_in_time() -> None:
    queue = queue_of(batch_size=1)
    assert queue.take(0, timeout_s=0.01) is None
    timer = threading.Timer(0.05, lambda: queue.put(handover([7])))
    timer.start()
    batch = queue.take(0, timeout_s=5)
    timer.join()
    assert taken(batch) == [7]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_several_producers_lose_nothing_and_keep_their_order(batch_size: int) -> None:
    queue = queue_of(batch_size, capacity=7)
    each, producers = 60, 3

    def produce(index: int) -> None:
        random = np.random.default_rng(index)
        done = 0
        while done < each:
            size = min(int(random.integers(1, 4)), each - done)
            start = index * each + done
            queue.put(handover(range(start, start + size)))
            done += size

    threads = [threading.Thread(target=produce, args=(index,)) for index in range(producers)]
    for thread in threads:
        thread.start()
    got: list[int] = []
    while len(got) < producers * each:
        got += taken(queue.take(0, timeout_s=5))
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(producers * each))
    for index in range(producers):
        own = [number for number in got if number // each == index]
        assert own == sorted(own)


def test_old_unrolls_are_dropped_and_counted() -> None:
    """A batch under way makes those behind it older by one update."""
    queue = queue_of(batch_size=1, max_policy_lag=0)
    for version, serials in enumerate([[0, 1, 2], [3, 4], [5, 6]]):
        queue.put(handover(serials, version=version))
    first = queue.take(0, timeout_s=0)
    assert taken(first) == [0]
    second = queue.take(1, timeout_s=0)
    third = queue.take(0, timeout_s=0)
    assert taken(second) + taken(third) == [5, 6]
    assert first is not None
    assert second is not None
    assert third is not None
    assert second.policy_versions.tolist() == [2]
    assert queue.account() == account(7, 0, 4, 3)
    queue.settle(first, Learned({}))
    queue.settle(second, Learned({}, lost=1))
    assert queue.account() == account(7, 1, 5, 1)
    queue.settle(third, None)
    assert queue.account() == account(7, 1, 6, 0)
    assert queue.env_steps == ENTRIES - 1


def test_an_old_unroll_behind_a_younger_one_is_dropped() -> None:
    """A slow actor hands over what it began long ago."""
    released: list[int] = []
    queue = queue_of(batch_size=1, max_policy_lag=0)
    for index, (version, serials) in enumerate([(5, [0, 1, 2]), (3, [3, 4]), (5, [5, 6]), (4, [7])]):
        item = unroll(serials)
        queue.put(Handover(item, len(serials), version, overwriting(item, released, index), serials[0]))
    assert taken(queue.take(0, timeout_s=0)) == [0]
    assert [taken(queue.take(4 - under_way, timeout_s=0)) for under_way in range(4)] == [[1], [2], [5], [6]]
    assert released == [1, 3, 0, 2]
    assert queue.account() == account(accepted=8, learned=0, dropped=3, queued=5)
    assert queue.take(0, timeout_s=0) is None


def test_old_unrolls_make_room_for_who_waits_also_when_there_is_no_batch() -> None:
    """Else the actor waits for room and the learner for unrolls, both indefinitely."""
    queue = queue_of(batch_size=3, capacity=4, max_policy_lag=0)
    queue.put(handover([0, 1, 2]))
    thread = threading.Thread(target=queue.put, args=(handover([3, 4, 5], version=9),), daemon=True)
    thread.start()
    thread.join(0.1)
    assert thread.is_alive(), "the queue is full"
    assert queue.take(9, timeout_s=0) is None
    thread.join(10)
    assert not thread.is_alive()
    assert queue.account() == account(accepted=6, learned=0, dropped=3, queued=3)
    assert taken(queue.take(9, timeout_s=0)) == [3, 4, 5]


def test_a_round_is_admitted_when_there_is_room_and_its_turn_comes_in_time() -> None:
    queue = queue_of(batch_size=4, capacity=6, max_policy_lag=1)
    assert queue.admits(unrolls=4, promised=0, slots=4)
    assert queue.admits(unrolls=4, promised=3, slots=100), "short of a batch, whatever becomes of the rest"
    assert queue.admits(unrolls=4, promised=4, slots=4), "learned one update later"
    assert not queue.admits(unrolls=5, promised=4, slots=100), "the last one would be two updates old"
    queue.put(handover([0, 1, 2, 3]))
    assert not queue.admits(unrolls=2, promised=3, slots=2), "6 and 2 may wait, 9 would"
    assert queue.admits(unrolls=1, promised=3, slots=2)
    batch = queue.take(0, timeout_s=0)
    assert batch is not None
    assert not queue.admits(unrolls=5, promised=0, slots=100), "what is being learned from comes before"
    queue.settle(batch, Learned({}))
    assert queue.admits(unrolls=5, promised=0, slots=100)
    assert queue_of(batch_size=4, capacity=6).admits(unrolls=6, promised=6, slots=6), "any age"


@pytest.mark.parametrize(("size", "ranks"), [(6, 2), (7, 3), (2, 3), (1, 4)])
def test_ranks_share_a_batch_without_gap_or_overlap(size: int, ranks: int) -> None:
    """From the middle of a handover on; of arrays a rank gets its own slots and no more."""
    queue = queue_of(size)
    for start in range(0, 16, 4):
        queue.put(handover(range(start, start + 4)))
    queue.take(0, timeout_s=0)
    batch = queue.take(0, timeout_s=0)
    assert batch is not None
    parts = [batch.share(rank, ranks) for rank in range(ranks)]
    assert all(len(part.unroll.slot) == part.stop - part.start for share in parts for part in share)
    shares = [serials_of(joined(share)) for share in parts]
    assert [serial for share in shares for serial in share] == list(range(size, 2 * size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_weights_of_a_part_go_into_what_the_learner_gets_and_are_shared_with_its_slots() -> None:
    weights = np.array([0.5, 1.0, 0.25], np.float32)
    parts = [Part(unroll([0, 1, 2, 3]), 1, 4, weights), Part(unroll([7, 8]), 0, 2)]
    assert joined(parts).weight.tolist() == [0.5, 1.0, 0.25, 7.0, 8.0]
    batch = Batch(parts, np.zeros(5, np.int64), [])
    assert [joined(batch.share(rank, 2)).weight.tolist() for rank in range(2)] == [[0.5, 1.0], [0.25, 7.0, 8.0]]
    assert batch.publishes
