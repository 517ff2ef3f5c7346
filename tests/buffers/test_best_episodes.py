"""Which episodes are kept as the best, and that all their steps are learned."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from slow_replay import Entry, Slot, layout_of, unroll_of

from machina.buffers.best_episodes import BestEpisodes
from machina.buffers.layout import Layout
from machina.buffers.priorities import PriorityRule
from machina.buffers.replay_store import ReplayStore
from machina.buffers.unrolls import to_arrays
from machina.types import Array, Unroll, combined

KEPT, LONGEST = 3, 14
UNIFORM = PriorityRule("none", 0.0, 0.0)


def store_of(layout: Layout) -> ReplayStore:
    return ReplayStore(layout, KEPT * layout.needed(layout.burn_in + LONGEST), KEPT, UNIFORM, None)


def best_of(layout: Layout) -> tuple[ReplayStore, BestEpisodes]:
    store = store_of(layout)
    return store, BestEpisodes(store, layout.burn_in, KEPT, LONGEST)


def game(layout: Layout, seed: int, rounds: int = 40) -> tuple[list[Unroll[Array]], list[list[Entry]]]:
    """Unrolls of two slots, one of which loses its environment now and then; and the episodes that were seen whole."""
    random = np.random.default_rng(seed)
    slots = [Slot(number, layout.spec.frame_stack, random) for number in range(2)]
    serials = [float(number) for number in range(10_000, 0, -1)]
    running: list[list[Entry]] = [[], []]
    unrolls, episodes = [], []
    for version in range(rounds):
        if version % 7 == 6:
            slots[1].lose_environment()
            running[1] = []
        starts = [slot.drawn for slot in slots]
        played = [slot.play(layout.unroll_length, version, serials) for slot in slots]
        core = np.zeros((2, layout.core_shapes[0][0] if layout.core_shapes else 0), np.float32)
        unrolls.append(unroll_of(played, starts, layout, core))
        ended = []
        for number, entries in enumerate(played):
            for index, each in enumerate(entries):
                own = running[number]
                if index == 0 and own:  # it was the last of the unroll before
                    own[-1] = each
                elif each.first:
                    own = [each]
                elif own:
                    own.append(each)
                if (each.terminated or each.truncated) and index > 0:
                    ended.append(own)
                    own = []
                running[number] = own
        # Slot by slot, as they are taken in.
        episodes += [own for own in ended if own and own[0].first]
    return unrolls, episodes


def total(episode: list[Entry]) -> float:
    return float(sum(entry.reward for entry in episode[1:]))


def best(episodes: list[list[Entry]]) -> list[list[Entry]]:
    """Those that are kept, one after another: as good as the worst, then the oldest of the worst goes."""
    kept: list[list[Entry]] = []
    for episode in episodes:
        if not 1 < len(episode) <= LONGEST + 1:
            continue
        if len(kept) == KEPT:
            worst = min(range(KEPT), key=lambda index: total(kept[index]))
            if total(episode) < total(kept[worst]):
                continue
            del kept[worst]
        kept.append(episode)
    return kept


def learned(store: ReplayStore, layout: Layout) -> set[float]:
    """Serials of the steps that are in the learned part of an item."""
    window = store.draw(np.linspace(0, 1, 400, endpoint=False)).unroll
    done = window.terminated | window.truncated
    counts = ~(done | window.foreign)[layout.burn_in : -1]
    serials = window.policy_outputs["serial"][layout.burn_in : -1]
    return set(serials[counts].tolist())


@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_whole_episodes_are_kept_and_learned_from_their_first_step_on(seed: int, stack: int) -> None:
    layout = layout_of(stack=stack, window=10, every_step=False, core=2)._replace(burn_in=4)
    store, episodes = best_of(layout)
    unrolls, played = game(layout, seed)
    for unroll in unrolls:
        episodes.put(unroll)
    expected = best(played)
    assert episodes.returns == pytest.approx(sorted(map(total, expected), reverse=True), abs=1e-5)
    steps = {entry.serial for episode in expected for entry in episode[:-1] if not entry.foreign}
    assert learned(store, layout) == steps


@pytest.mark.parametrize("stack", [1, 3])
def test_what_is_taken_in_may_change_afterwards(stack: int) -> None:
    """Actors fill the same arrays again; of a single slot all of them lie in one piece of memory."""
    layout = layout_of(stack=stack, window=3)
    (kept, as_kept), (reused, as_reused) = best_of(layout), best_of(layout)
    for unroll in game(layout, 4)[0]:
        single = combined([unroll], lambda arrays: arrays[0][:, :1].copy(), lambda arrays: arrays[0][:1].copy())
        again = copy.deepcopy(single)
        as_kept.put(single)
        as_reused.put(again)
        assert all(np.array_equal(array, to_arrays(single)[name]) for name, array in to_arrays(again).items())
        for array in to_arrays(again).values():
            array[...] = 1
    fractions = np.linspace(0, 1, 50, endpoint=False)
    ours, theirs = kept.draw(fractions).unroll, reused.draw(fractions).unroll
    assert len(as_kept.returns) == KEPT
    for name, array in to_arrays(ours).items():
        np.testing.assert_array_equal(array, to_arrays(theirs)[name], err_msg=name)


def test_without_a_burn_in_nothing_is_put_before() -> None:
    layout = layout_of(stack=1, window=3)
    store, episodes = best_of(layout)
    unrolls, played = game(layout, 1)
    for unroll in unrolls:
        episodes.put(unroll)
    assert store.stored == sum(len(episode) - 1 for episode in best(played))


def test_a_restored_memory_goes_on_alike() -> None:
    layout = layout_of(stack=3, window=10, every_step=False, core=2)._replace(burn_in=4)
    (first, firsts), (second, seconds) = best_of(layout), best_of(layout)
    unrolls, _ = game(layout, 2)
    for unroll in unrolls[:20]:
        firsts.put(unroll)
    for index, version in enumerate(first.chunk_versions):
        if version:
            second.load_chunk(index, first.chunk(index))
    second.load_rest(first.rest())
    seconds.load_state({name: array.copy() for name, array in firsts.state().items()})
    for unroll in unrolls[20:]:
        firsts.put(unroll)
        seconds.put(unroll)
    assert np.array_equal(firsts.returns, seconds.returns)
    fractions = np.linspace(0, 1, 50, endpoint=False)
    ours, theirs = first.draw(fractions), second.draw(fractions)
    assert np.array_equal(ours.keys, theirs.keys)
    assert np.array_equal(ours.unroll.observation["observation"], theirs.unroll.observation["observation"])
