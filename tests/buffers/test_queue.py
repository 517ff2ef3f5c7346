"""The queue against a naive twin, under back-pressure and among threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from machina.buffers.buffer import Batch, Handover, joined
from machina.buffers.queue import QueueClosedError, UnrollQueue
from machina.buffers.unrolls import to_arrays
from machina.checkpoint.status import QueueAccount
from machina.types import BEHAVIOUR_LOGITS, Array, Unroll

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
    return Handover(unroll(serials), len(serials), version, keep, order)


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
    """Does what an actor does with a released buffer: fills it anew."""

    def release() -> None:
        released.append(index)
        for array in (item.reward, item.action, item.slot, item.core_state[0], item.observation["observation"]):
            array[...] = -1

    return release


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_list_under_random_operations(seed: int) -> None:
    random = np.random.default_rng(seed)
    queue = UnrollQueue(capacity=17)
    twin: list[int] = []
    accepted = learned = puts = 0
    ends: list[int] = []
    released: list[int] = []
    for _ in range(400):
        if random.random() < 0.5:
            size = int(random.integers(1, 6))
            if len(twin) + size > 17:
                continue
            item = unroll(range(accepted, accepted + size))
            queue.put(Handover(item, size, 0, overwriting(item, released, puts)))
            twin += range(accepted, accepted + size)
            accepted += size
            ends.append(accepted)
            puts += 1
        else:
            count = int(random.integers(1, 9))
            batch = queue.get(count, timeout_s=0)
            if len(twin) < count:
                assert batch is None
            else:
                assert batch is not None
                assert queue.account == QueueAccount(accepted, learned, 0, len(twin)), "queued until it is settled"
                assert taken(batch) == twin[:count]
                queue.settle(batch)
                del twin[:count]
                learned += count
        assert queue.account == QueueAccount(accepted, learned, 0, len(twin))
        assert released == list(range(sum(end <= learned for end in ends))), "released once, when all slots were taken"
        waiting = queue.waiting()
        assert (serials_of(waiting) if waiting is not None else []) == twin


def test_ranked_unrolls_come_by_rank_and_a_begun_one_stays_first() -> None:
    queue = UnrollQueue(capacity=None)
    for order, serials in [(20, [4, 5]), (10, [2, 3]), (30, [6])]:
        queue.put(handover(serials, order))
    first = queue.get(1, timeout_s=0)
    assert taken(first) == [2]
    queue.put(handover([0, 1], order=0))
    rest = queue.get(6, timeout_s=0)
    assert taken(rest) == [3, 0, 1, 4, 5, 6]


def test_put_waits_while_the_queue_is_full_and_nothing_is_dropped() -> None:
    queue = UnrollQueue(capacity=4)
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
    assert queue.account == QueueAccount(3, 0, 0, 3)
    batch = queue.get(1, timeout_s=0)
    assert passed.wait(5)
    thread.join()
    rest = queue.get(4, timeout_s=0)
    assert taken(batch) + taken(rest) == [0, 1, 2, 3, 4]
    assert batch is not None
    assert rest is not None
    queue.settle(batch)
    queue.settle(rest)
    assert queue.account == QueueAccount(5, 5, 0, 0)


def test_close_wakes_who_waits_and_refuses_more() -> None:
    queue = UnrollQueue(capacity=1)
    queue.put(handover([0]))
    outcome: list[str] = []

    def put() -> None:
        try:
            queue.put(handover([1]))
        except QueueClosedError:
            outcome.append("closed")

    thread = threading.Thread(target=put)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    queue.close()
    thread.join(5)
    assert outcome == ["closed"]
    with pytest.raises(QueueClosedError):
        queue.put(handover([2]))
    assert queue.account == QueueAccount(1, 0, 0, 1)


def test_get_waits_for_a_put_and_gives_up_in_time() -> None:
    queue = UnrollQueue(capacity=None)
    assert queue.get(1, timeout_s=0.01) is None
    timer = threading.Timer(0.05, lambda: queue.put(handover([7])))
    timer.start()
    batch = queue.get(1, timeout_s=5)
    timer.join()
    assert taken(batch) == [7]


def test_several_producers_lose_nothing_and_keep_their_order() -> None:
    queue = UnrollQueue(capacity=7)
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
    random = np.random.default_rng(9)
    got: list[int] = []
    while len(got) < producers * each:
        batch = queue.get(min(int(random.integers(1, 5)), producers * each - len(got)), timeout_s=5)
        got += taken(batch)
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(producers * each))
    for index in range(producers):
        own = [number for number in got if number // each == index]
        assert own == sorted(own)


def test_old_unrolls_are_dropped_and_counted() -> None:
    queue = UnrollQueue(capacity=None)
    for version, serials in enumerate([[0, 1, 2], [3, 4], [5, 6]]):
        queue.put(handover(serials, version=version))
    first = queue.get(1, timeout_s=0)
    assert first is not None
    assert taken(first) == [0]
    second = queue.get(2, timeout_s=0, oldest_version=2)
    assert second is not None
    assert taken(second) == [5, 6]
    assert second.policy_versions.tolist() == [2, 2]
    assert queue.account == QueueAccount(7, 0, 4, 3)
    queue.settle(first)
    queue.settle(second, lost=1)
    assert queue.account == QueueAccount(7, 2, 5, 0)


def test_an_old_unroll_behind_a_younger_one_is_dropped() -> None:
    """A slow actor hands over what it began long ago."""
    released: list[int] = []
    queue = UnrollQueue(capacity=None)
    for index, (version, serials) in enumerate([(5, [0, 1, 2]), (3, [3, 4]), (5, [5, 6]), (4, [7])]):
        item = unroll(serials)
        queue.put(Handover(item, len(serials), version, overwriting(item, released, index)))
    first = queue.get(1, timeout_s=0)
    assert taken(first) == [0]
    assert taken(queue.get(4, timeout_s=0, oldest_version=5)) == [1, 2, 5, 6]
    assert released == [1, 3, 0, 2]
    assert queue.account == QueueAccount(accepted=8, learned=0, dropped=3, queued=5)
    assert queue.get(1, timeout_s=0) is None


def test_old_unrolls_make_room_for_who_waits_also_when_there_is_no_batch() -> None:
    """Else the actor waits for room and the learner for unrolls, both for ever."""
    queue = UnrollQueue(capacity=4)
    queue.put(handover([0, 1, 2]))
    thread = threading.Thread(target=queue.put, args=(handover([3, 4, 5], version=9),), daemon=True)
    thread.start()
    thread.join(0.1)
    assert thread.is_alive(), "the queue is full"
    assert queue.get(4, timeout_s=0, oldest_version=9) is None
    thread.join(10)
    assert not thread.is_alive()
    assert queue.account == QueueAccount(accepted=6, learned=0, dropped=3, queued=3)
    assert taken(queue.get(3, timeout_s=0, oldest_version=9)) == [3, 4, 5]


@pytest.mark.parametrize(("size", "ranks"), [(6, 2), (7, 3), (2, 3), (1, 4)])
def test_ranks_share_a_batch_without_gap_or_overlap(size: int, ranks: int) -> None:
    queue = UnrollQueue(capacity=None)
    for start in range(0, 9, 3):
        queue.put(handover(range(start, start + 3)))
    queue.get(1, timeout_s=0)
    batch = queue.get(size, timeout_s=0)
    assert batch is not None
    shares = [serials_of(joined(batch.share(rank, ranks))) for rank in range(ranks)]
    assert [serial for share in shares for serial in share] == list(range(1, 1 + size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
