"""The replay's storage against lists of entries: every item, every frame, every number."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from slow_replay import Entry, Slot, SlowLane, layout_of, unroll_of

from machina.buffers.layout import BLOCK, Layout
from machina.buffers.priorities import PriorityRule
from machina.buffers.replay_store import Drawn, ReplayStore
from machina.errors import UserError
from machina.losses.alignment import aligned
from machina.nets.frames import stacked_frames
from machina.types import Array, Unroll, combined, copies

EQUAL = PriorityRule("none", 0.0, 0.0)
PROPORTIONAL = PriorityRule("proportional", 1.0, 1e-6)


class Played:
    """A store and its slow twin, which get the same unrolls."""

    def __init__(self, layout: Layout, capacity: int, slots: int, lanes: int, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.layout = layout
        self.store = ReplayStore(layout, capacity, lanes, EQUAL, None)
        length = capacity // lanes
        if layout.compressed:
            length -= length % BLOCK
        self.slow = [SlowLane(layout, length) for _ in range(lanes)]
        self.slots = [Slot(i, layout.spec.frame_stack, self.random) for i in range(slots)]
        self.serials = [float(i) for i in range(200_000, 0, -1)]
        self.cores: dict[float, Array] = {}
        self.version = 0

    def put(self, numbers: Sequence[int], steps: int, version: int | None = None) -> None:
        """One unroll of some slots; some have lost their environments before."""
        self.version += 1
        for number in numbers:
            if self.random.random() < 0.15:
                self.slots[number].lose_environment()
        starts = [self.slots[number].drawn for number in numbers]
        version = self.version if version is None else version
        played = [self.slots[number].play(steps, version, self.serials) for number in numbers]
        core = self.random.random((len(numbers), 4)).astype(np.float32)
        self.store.put(unroll_of(played, starts, self.layout, core))
        for entries, start, row in zip(played, starts, core, strict=True):
            self.cores[entries[0].serial] = row
            self.slow[entries[0].slot % len(self.slow)].put(entries, start)

    def items(self) -> dict[float, list[Entry]]:
        return {serial: window for lane in self.slow for serial, window in lane.items().items()}

    def check(self) -> int:
        """Everything that can be drawn equals the twin's; returns the number of items."""
        expected = self.items()
        assert self.store.num_items == len(expected)
        assert self.store.stored == sum(lane.stored() for lane in self.slow)
        assert self.store.added == self.store.stored + self.store.removed
        if expected:
            drawn = all_items(self.store)
            serials = drawn.unroll.policy_outputs["serial"][0].tolist()
            assert sorted(serials) == sorted(expected)
            for k, serial in enumerate(serials):
                self.check_window(drawn, k, expected[serial])
        return len(expected)

    def check_window(self, drawn: Drawn, k: int, window: Sequence[Entry]) -> None:
        unroll: Unroll[Array] = combined([drawn.unroll], lambda a: a[0][:, k : k + 1], lambda a: a[0][k : k + 1])
        steps = aligned(combined([unroll], lambda a: torch.from_numpy(a[0]), lambda a: torch.from_numpy(a[0])))
        frames = torch.from_numpy(unroll.observation["observation"])
        stacks = stacked_frames(frames, steps.first)[:, 0]
        for t, entry in enumerate(window):
            np.testing.assert_array_equal(stacks[t], entry.stack)
            np.testing.assert_array_equal(unroll.observation["speed"][t, 0], entry.speed)
            for name in ("reward", "terminated", "truncated", "life_lost", "action", "foreign"):
                assert getattr(unroll, name)[t, 0] == getattr(entry, name), name
            assert unroll.team_reward[t, 0] == entry.reward
            assert unroll.policy_outputs["serial"][t, 0] == entry.serial
            np.testing.assert_array_equal(unroll.policy_outputs["pair"][t, 0], [entry.serial, -entry.serial])
            assert steps.first[t, 0] == entry.first
            assert steps.previous_actions[t, 0] == entry.previous_action
        opening = window[0]
        assert (unroll.first[0], unroll.previous_action[0]) == (opening.first, opening.previous_action)
        assert (unroll.slot[0], unroll.task_id[0]) == (opening.slot, opening.slot % 2)
        assert unroll.policy_version[0] == opening.version
        assert unroll.weight[0] == 1
        assert unroll.on_turn.all()
        assert not unroll.enemy_reward.any()
        if not self.layout.every_step:
            np.testing.assert_array_equal(unroll.core_state[0][0], self.cores[opening.serial])


def all_items(store: ReplayStore) -> Drawn:
    """Every item once; only where all have equal chances."""
    count = store.num_items
    return store.draw((np.arange(count) + 0.5) / count)


@pytest.mark.parametrize("window", [1, 2, 3, 5, 10])
@pytest.mark.parametrize(("stack", "compressed"), [(1, False), (4, False), (3, True)])
def test_every_window_equals_that_of_lists(window: int, stack: int, compressed: bool) -> None:
    slots, steps = 3, 7
    layout = layout_of(stack=stack, window=window, unroll_length=steps, compressed=compressed)
    played = Played(layout, 3 * (60 if compressed else 45), slots, 3, seed=window * 10 + stack)
    counts = []
    for _ in range(40):
        chosen = played.random.permutation(slots)[: played.random.integers(1, slots + 1)].tolist()
        played.put(chosen, int(played.random.integers(1, steps + 1)))
        counts.append(played.check())
    assert played.store.removed > 0
    assert max(counts) > 50


@pytest.mark.parametrize("capacity", [3 * 200, 3 * 26])
def test_of_whole_episodes_nothing_is_drawn_before_they_have_ended(capacity: int) -> None:
    """In the smaller one the first steps of some episodes are overwritten before the last are there."""
    layout = layout_of(stack=4, window=3, unroll_length=7)._replace(whole_episodes=True)
    played = Played(layout, capacity, 3, 3, seed=5)
    counts = []
    for _ in range(60):
        played.put(played.random.permutation(3)[: played.random.integers(1, 4)].tolist(), 7)
        counts.append(played.check())
    assert played.store.removed > 0
    assert max(counts) > 20


@pytest.mark.parametrize("steps", [1, 4])
def test_slots_that_share_a_lane_break_it_each_time(steps: int) -> None:
    played = Played(layout_of(stack=4, window=3), 2 * 60, 5, 2, seed=steps)
    for _ in range(40):
        played.put(range(5), steps)
        played.check()
    assert played.store.removed > 0


def test_of_demonstrations_what_others_did_counts() -> None:
    played = Played(layout_of(stack=1, window=2), 1000, 2, 2, seed=0)
    for _ in range(20):
        played.put([0, 1], 5, version=-1)
    played.check()
    assert all_items(played.store).unroll.foreign[0].sum() > 5


@pytest.mark.parametrize(("window", "steps"), [(5, 5), (12, 5), (15, 5), (3, 7)])
@pytest.mark.parametrize("compressed", [False, True])
def test_sequences_start_where_unrolls_do_with_the_core_state(window: int, steps: int, compressed: bool) -> None:
    layout = layout_of(stack=4, window=window, unroll_length=steps, every_step=False, compressed=compressed, core=4)
    played = Played(layout, 3 * 101, 3, 3, seed=window)
    counts = []
    for _ in range(60):
        played.put(played.random.permutation(3)[: played.random.integers(1, 4)].tolist(), steps)
        counts.append(played.check())
    assert played.store.removed > 0
    assert max(counts) > 12


def test_a_cleared_lane_is_empty_and_starts_afresh() -> None:
    played = Played(layout_of(stack=4, window=3), 3 * 60, 3, 3, seed=0)
    for _ in range(5):
        played.put([0, 1, 2], 5)
    before, keys = played.check(), all_items(played.store).keys
    played.store.clear(1)
    played.slow[1].entries = [None] * len(played.slow[1].entries)
    played.slow[1].last = None
    assert played.check() < before
    assert played.store.removed > 0
    assert played.store.write_back(keys, np.ones(before)) == before - played.store.num_items
    for _ in range(30):
        played.put([0, 1, 2], 5)
        played.check()


@pytest.mark.parametrize("seed", range(6))
def test_errors_of_overwritten_items_are_dropped_and_counted(seed: int) -> None:
    played = Played(layout_of(stack=1, window=2), 2 * 40, 2, 2, seed)
    played.store = ReplayStore(played.layout, 2 * 40, 2, PROPORTIONAL, None)
    for _ in range(6):
        played.put([0, 1], 5)
    drawn = played.store.draw(played.random.random(1000))
    keys, index = np.unique(drawn.keys, return_index=True)
    serials = drawn.unroll.policy_outputs["serial"][0, index]
    for _ in range(3):
        played.put([0, 1], 5)
    there = np.isin(serials, list(played.items()))
    assert 0 < there.sum() < len(keys)
    total = played.store.total
    assert played.store.write_back(keys, np.full(len(keys), np.nan)) == (~there).sum()
    assert played.store.total == total, "NaN is no error"
    played.store.write_back(keys, serials)
    drawn = played.store.draw(played.random.random(5000))
    masses = dict(zip(drawn.unroll.policy_outputs["serial"][0], drawn.masses, strict=True))
    known = {serial: serial + 1e-6 for serial in serials[there]}
    largest = max(known.values())
    assert all(mass == known.get(serial, mass) for serial, mass in masses.items())
    assert sum(serial in known for serial in masses) > 5
    assert max(masses.values()) == largest


def test_the_first_error_is_made_of_what_the_actor_left() -> None:
    layout, seen = layout_of(stack=4, window=3), []

    def errors(windows: Unroll[Array]) -> Array:
        assert windows.observation == {}
        seen.extend(windows.policy_outputs["serial"][0].tolist())
        made = windows.policy_outputs["serial"][0] + windows.reward[1]
        return np.where(windows.action[0] == 0, np.nan, made)

    played = Played(layout, 2 * 200, 2, 2, seed=1)
    played.store = ReplayStore(layout, 2 * 200, 2, PROPORTIONAL, errors)
    for _ in range(20):
        played.put([0, 1], 5)
    items = played.items()
    assert sorted(seen) == sorted(items)
    drawn = played.store.draw(played.random.random(2000))
    for serial, mass in zip(drawn.unroll.policy_outputs["serial"][0], drawn.masses, strict=True):
        window = items[serial]
        if window[0].action:
            assert mass == pytest.approx(abs(serial + window[1].reward) + 1e-6)
        else:
            assert mass >= 1, "as the largest that there was"


def test_every_item_is_drawn_as_often_as_its_mass_says() -> None:
    played = Played(layout_of(stack=1, window=1), 200, 1, 1, seed=5)
    played.store = ReplayStore(played.layout, 200, 1, PROPORTIONAL, None)
    for _ in range(10):
        played.put([0], 5)
    drawn = played.store.draw(played.random.random(2000))
    played.store.write_back(drawn.keys, drawn.unroll.policy_outputs["serial"][0] % 7 + 1)
    drawn = played.store.draw(played.random.random(100_000))
    _, index, counts = np.unique(drawn.keys, return_index=True, return_counts=True)
    assert len(counts) == played.store.num_items
    expected = 100_000 * drawn.masses[index] / played.store.total
    assert expected.sum() == pytest.approx(100_000)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = len(counts) - 1
    assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("every_step", [False, True])
def test_a_restored_store_continues_bit_for_bit(compressed: bool, every_step: bool) -> None:
    layout = layout_of(stack=4, window=3, compressed=compressed, every_step=every_step, core=4)
    for puts in (2, 30):
        played = Played(layout, 3 * 80, 3, 3, seed=puts)
        twin = Played(layout, 3 * 80, 3, 3, seed=puts)
        for _ in range(puts):
            played.put([0, 1, 2], 5)
            twin.put([0, 1, 2], 5)
        played.store = restored(played.store, ReplayStore(layout, 3 * 80, 3, EQUAL, None))
        assert (played.store.added, played.store.removed) == (twin.store.added, twin.store.removed)
        for _ in range(5):
            played.check()
            np.testing.assert_array_equal(all_items(played.store).keys, all_items(twin.store).keys)
            played.put([0, 1, 2], 5)
            twin.put([0, 1, 2], 5)


def restored(store: ReplayStore, other: ReplayStore) -> ReplayStore:
    """Another store with the content of the first, as a checkpoint keeps it."""
    chunks = [copies(store.chunk(index)) for index in range(len(store.chunk_versions))]
    rest = copies(store.rest())
    other.load_rest(rest)
    for index, chunk in enumerate(chunks):
        other.load_chunk(index, chunk)
    return other


def test_only_chunks_that_were_written_to_have_new_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("machina.buffers.replay_store.CHUNK_BYTES", 1)
    played = Played(layout_of(stack=4, window=3), 3 * 100, 3, 3, seed=0)
    written = []
    for _ in range(30):
        before = played.store.chunk_versions
        played.put([0, 1, 2], 5)
        changed = np.flatnonzero(played.store.chunk_versions != before)
        assert 1 <= len(changed) <= 2
        written.append(set(changed.tolist()))
    assert len(played.store.chunk_versions) == 5
    assert set.union(*written) == set(range(5))
    other = ReplayStore(layout_of(stack=4, window=3), 3 * 100, 3, EQUAL, None)
    played.store = restored(played.store, other)
    played.check()


def test_a_state_of_another_size_is_refused() -> None:
    layout = layout_of(stack=4, window=3)
    store = ReplayStore(layout, 300, 3, EQUAL, None)
    with pytest.raises(UserError, match=r"lanes/head is \(3,\), of this run \(2,\); continue with the same options"):
        restored(store, ReplayStore(layout, 200, 2, EQUAL, None))
    with pytest.raises(UserError, match=r"is \(300,\), of this run \(600,\); continue with the same options"):
        restored(store, ReplayStore(layout, 600, 3, EQUAL, None))
    with pytest.raises(UserError, match="columns/observation/observation/raw is absent, of this run"):
        restored(store, ReplayStore(layout._replace(compressed=True), 300, 3, EQUAL, None))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("every_step", [False, True])
def test_too_small_a_store_is_refused_and_the_smallest_one_works(compressed: bool, every_step: bool) -> None:
    layout = layout_of(stack=4, window=3, compressed=compressed, every_step=every_step, core=4)
    least = layout.shortest_lane * 3
    with pytest.raises(UserError, match=rf"capacity={least - 1}: 3 environments .* use at least {least}$"):
        ReplayStore(layout, least - 1, 3, EQUAL, None)
    played = Played(layout, least, 3, 3, seed=0)
    most = 0
    for _ in range(20):
        played.put([0, 1, 2], 5)
        most = max(most, played.check())
    assert most > 0


def test_unrolls_that_are_too_long_are_refused() -> None:
    played = Played(layout_of(stack=1, window=3), 60, 1, 1, seed=0)
    with pytest.raises(UserError, match=r"unroll of 99 steps: a lane of the replay holds 60; use shorter unrolls"):
        played.put([0], 99)


def test_nothing_can_be_drawn_of_an_empty_store() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        ReplayStore(layout_of(stack=1, window=3), 60, 1, EQUAL, None).draw(np.zeros(1))


def test_a_layout_travels_to_other_processes() -> None:
    layout = layout_of(stack=4, window=3)
    assert pickle.loads(pickle.dumps(layout)) == layout
