"""The queue against a naive twin, under back-pressure and among threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from machina.runtime.queue import QueueAccount, QueueClosedError, UnrollQueue
from machina.types import Array, Unroll

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
        life_lost=over_time(np.bool_),
        action=over_time(np.int64),
        behaviour_logits=np.tile(numbers[None, :, None], (ENTRIES, 1, 2)).astype(np.float32),
        core_state=(numbers[:, None].astype(np.float32),),
        previous_action=numbers.copy(),
        task_id=numbers.copy(),
        slot=numbers.copy(),
        policy_version=numbers.copy(),
    )


def serials_of(batch: Unroll[Array]) -> list[int]:
    """The slots' serial numbers; every array must agree on them."""
    numbers = batch.slot.tolist()
    whole = unroll(numbers)
    for name, expected in whole._asdict().items():
        got = getattr(batch, name)
        if name == "observation":
            np.testing.assert_array_equal(got["observation"], expected["observation"])
        elif name == "core_state":
            np.testing.assert_array_equal(got[0], expected[0])
        else:
            np.testing.assert_array_equal(got, expected)
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
            queue.put(item, overwriting(item, released, puts))
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
                assert serials_of(batch) == twin[:count]
                del twin[:count]
                learned += count
        assert queue.account == QueueAccount(accepted, learned, len(twin))
        assert released == list(range(sum(end <= learned for end in ends))), "released once, when all slots were taken"
        waiting = queue.waiting()
        assert (serials_of(waiting) if waiting is not None else []) == twin


def test_ranked_unrolls_come_by_rank_and_a_begun_one_stays_first() -> None:
    queue = UnrollQueue(capacity=None)
    for order, serials in [(20, [4, 5]), (10, [2, 3]), (30, [6])]:
        queue.put(unroll(serials), keep, order)
    first = queue.get(1, timeout_s=0)
    assert first is not None
    assert serials_of(first) == [2]
    queue.put(unroll([0, 1]), keep, order=0)
    rest = queue.get(6, timeout_s=0)
    assert rest is not None
    assert serials_of(rest) == [3, 0, 1, 4, 5, 6]


def test_put_waits_while_the_queue_is_full_and_nothing_is_dropped() -> None:
    queue = UnrollQueue(capacity=4)
    queue.put(unroll([0, 1, 2]), keep)
    entered, passed = threading.Event(), threading.Event()

    def put() -> None:
        entered.set()
        queue.put(unroll([3, 4]), keep)
        passed.set()

    thread = threading.Thread(target=put)
    thread.start()
    assert entered.wait(5)
    assert not passed.wait(0.1)
    assert queue.account == QueueAccount(3, 0, 3)
    batch = queue.get(1, timeout_s=0)
    assert passed.wait(5)
    thread.join()
    rest = queue.get(4, timeout_s=0)
    assert batch is not None
    assert rest is not None
    assert serials_of(batch) + serials_of(rest) == [0, 1, 2, 3, 4]
    assert queue.account == QueueAccount(5, 5, 0)


def test_close_wakes_who_waits_and_refuses_more() -> None:
    queue = UnrollQueue(capacity=1)
    queue.put(unroll([0]), keep)
    outcome: list[str] = []

    def put() -> None:
        try:
            queue.put(unroll([1]), keep)
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
        queue.put(unroll([2]), keep)
    assert queue.account == QueueAccount(1, 0, 1)


def test_get_waits_for_a_put_and_gives_up_in_time() -> None:
    queue = UnrollQueue(capacity=None)
    assert queue.get(1, timeout_s=0.01) is None
    timer = threading.Timer(0.05, lambda: queue.put(unroll([7]), keep))
    timer.start()
    batch = queue.get(1, timeout_s=5)
    timer.join()
    assert batch is not None
    assert serials_of(batch) == [7]


def test_several_producers_lose_nothing_and_keep_their_order() -> None:
    queue = UnrollQueue(capacity=7)
    each, producers = 60, 3

    def produce(index: int) -> None:
        random = np.random.default_rng(index)
        done = 0
        while done < each:
            size = min(int(random.integers(1, 4)), each - done)
            start = index * each + done
            queue.put(unroll(range(start, start + size)), keep)
            done += size

    threads = [threading.Thread(target=produce, args=(index,)) for index in range(producers)]
    for thread in threads:
        thread.start()
    random = np.random.default_rng(9)
    got: list[int] = []
    while len(got) < producers * each:
        batch = queue.get(min(int(random.integers(1, 5)), producers * each - len(got)), timeout_s=5)
        assert batch is not None
        got += serials_of(batch)
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(producers * each))
    for index in range(producers):
        own = [number for number in got if number // each == index]
        assert own == sorted(own)
