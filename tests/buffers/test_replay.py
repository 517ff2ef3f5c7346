"""The replay: how often it has something learned, and what happens when the shard that holds everything is lost."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from process_shards import ProcessShards
from slow_replay import Slot, layout_of, unroll_of

from machina.buffers.buffer import Batch, BufferSizes, Handover
from machina.buffers.priorities import PriorityRule
from machina.buffers.replay import Replay, ReplayPlan, SampledBatch, Share
from machina.buffers.replay_shard import AGENT, DEMONSTRATIONS, EPISODES, MemorySetup, ShardSetup
from machina.launch.places import LocalShards
from machina.types import Array, Learned, Unroll

LAYOUT = layout_of(stack=1, window=3)
SETUP = ShardSetup({AGENT: MemorySetup(LAYOUT, 2 * 60, 2, PriorityRule("proportional", 1.0, 1e-9), None)}, None)
SIZES = BufferSizes(
    batch_size=5,
    unroll_length=5,
    capacity=10,
    max_policy_lag=None,
    waits=False,
    num_slots=2,
    total_env_steps=10**4,
    seed=1,
)
RATIO = 2.0


class Playing:
    """A replay of one shard in a process, and slots that fill it."""

    def __init__(self) -> None:
        self.shards = ProcessShards()
        plan = ReplayPlan(RATIO, sample_steps=1, learning_starts=20, exponent=0.0, exponent_final=0.0)
        self.replay = Replay(plan, SIZES, [SETUP], self.shards)
        self.slots = [Slot(number, 1, np.random.default_rng(number)) for number in range(2)]
        self.serials = [float(number) for number in range(10_000, 0, -1)]

    def put(self) -> None:
        starts = [slot.drawn for slot in self.slots]
        unroll = unroll_of([slot.play(5, 1, self.serials) for slot in self.slots], starts, LAYOUT, np.zeros((2, 4)))
        self.replay.put(Handover(unroll, 2, 0, lambda: None, 0))

    def learn(self) -> int:
        """Learn whatever is due; how many batches that was."""
        learned = 0
        while (batch := self.replay.take(0, timeout_s=0)) is not None:
            self.replay.settle(batch, Learned({}, priorities=np.ones(batch.num_slots, np.float32)))
            learned += 1
        return learned


@pytest.fixture
def playing() -> Iterator[Playing]:
    playing = Playing()
    yield playing
    playing.replay.close()


def test_two_samples_are_learned_for_every_step_after_the_start(playing: Playing) -> None:
    batches = []
    for _ in range(10):
        playing.put()
        batches.append(playing.learn())
    assert batches == [0, 0, *[4] * 8]
    assert playing.replay.metrics()["replay/ratio"] == RATIO
    assert not playing.replay.admits(8, promised=0, slots=2)
    assert playing.replay.admits(2, promised=0, slots=2)


def test_when_the_only_shard_is_lost_learning_goes_on_with_what_comes_then(playing: Playing) -> None:
    for _ in range(6):
        playing.put()
        playing.learn()
    playing.put()
    playing.shards.kill_last()
    # The first batch finds the shard dead, the second one nothing to draw from: neither ends the run.
    assert playing.learn() == 0
    assert playing.learn() == 0
    assert len(playing.shards.reports) == 1
    assert playing.replay.admits(2, promised=0, slots=2), "else nothing would ever come"
    batches = []
    for _ in range(4):
        playing.put()
        batches.append(playing.learn())
        account = playing.replay.account()
        assert account["collected"] == account["stored"] + account["removed"] + account["lost"]
    assert batches == [4] * 4
    assert account["lost"] == 70
    assert playing.replay.metrics()["replay/ratio"] == pytest.approx(RATIO, rel=0.05)


def test_a_task_of_a_thousandfold_errors_is_drawn_no_more_often_than_the_other(playing: Playing) -> None:
    """Slot 0 plays task 0, slot 1 task 1; the errors of both vary alike around means that are 1 and 1000."""
    random = np.random.default_rng(0)
    drawn = np.zeros(2)
    for _ in range(120):
        playing.put()
        while (batch := playing.replay.take(0, timeout_s=0)) is not None:
            assert isinstance(batch, SampledBatch)
            tasks = np.concatenate([each.task_ids for each in batch._selections])
            drawn += np.bincount(tasks, minlength=2)
            errors = (random.uniform(0.1, 1.9, len(tasks)) * 1000.0**tasks).astype(np.float32)
            playing.replay.settle(batch, Learned({}, priorities=errors))
    assert drawn.sum() > 2000
    assert drawn[1] / drawn.sum() == pytest.approx(0.5, abs=0.06)


def demonstrated() -> Iterator[Unroll[Array]]:
    slot = Slot(0, 1, np.random.default_rng(3))
    serials = [float(number) for number in range(10_000, 0, -1)]
    for start in range(0, 50, 5):
        yield unroll_of([slot.play(5, -1, serials)], [start], LAYOUT, np.zeros((1, 4)))


@pytest.mark.parametrize(
    ("demo_share", "episode_share", "expected"),
    [
        (Share(DEMONSTRATIONS, 0.25, 0.25, 0), Share(EPISODES, 0.5, 0.5, 0), (0.25, 0.375)),
        (Share(DEMONSTRATIONS, 1 / 256, 1 / 256, 0), Share(EPISODES, 1 / 8, 1 / 8, 0), (1 / 256, 255 / 256 / 8)),
        # 50 env steps count until more is learned: half of the way from 1 to 1/16, by equal factors.
        (Share(DEMONSTRATIONS, 1.0, 1 / 16, 100), Share(EPISODES, 1.0, 1.0, 0), (1 / 4, 3 / 4)),
        (Share(DEMONSTRATIONS, 1.0, 1.0, 0), Share(EPISODES, 1 / 8, 1 / 8, 0), (1.0, 0.0)),
    ],
    ids=str,
)
def test_batches_are_mixed_as_the_shares_say(
    demo_share: Share, episode_share: Share, expected: tuple[float, float]
) -> None:
    """Each share is of what those before it leave; drawn to within four deviations, which is below one percent."""
    rule = PriorityRule("none", 0.0, 0.0)
    memories = {
        AGENT: MemorySetup(LAYOUT, 2 * 60, 2, rule, None),
        EPISODES: MemorySetup(LAYOUT, 3 * 60, 3, rule, None),
        DEMONSTRATIONS: MemorySetup(LAYOUT, 200, 1, rule, None),
    }
    plan = ReplayPlan(1e6, 1, learning_starts=50, exponent=0.0, exponent_final=0.0, shares=(demo_share, episode_share))
    sizes = SIZES._replace(batch_size=1000)
    replay = Replay(plan, sizes, [ShardSetup(memories, demonstrated, longest_episode=50)], LocalShards())
    slots = [Slot(number, 1, np.random.default_rng(number)) for number in range(2)]
    serials = [float(number) for number in range(10_000, 0, -1)]
    for _ in range(6):
        starts = [slot.drawn for slot in slots]
        unroll = unroll_of([slot.play(5, 1, serials) for slot in slots], starts, LAYOUT, np.zeros((2, 4)))
        replay.put(Handover(unroll, 2, 0, lambda: None, 0))
    drawn = dict.fromkeys((AGENT, EPISODES, DEMONSTRATIONS), 0)
    for _ in range(100):
        batch = replay.take(0, timeout_s=0)
        assert isinstance(batch, SampledBatch)
        for selection, memory in zip(batch._selections, batch._memories, strict=True):
            drawn[memory] += len(selection.keys)
        replay.settle(batch, Learned({}))
    total = sum(drawn.values())
    assert total == 100_000
    for memory, share in zip((DEMONSTRATIONS, EPISODES), expected, strict=True):
        assert abs(drawn[memory] / total - share) <= 4 * np.sqrt(share * (1 - share) / total) < 0.01


def test_an_item_that_was_lost_on_its_way_to_a_rank_keeps_its_priority(playing: Playing) -> None:
    for _ in range(3):
        playing.put()
    batch = playing.replay.take(0, timeout_s=0)
    assert isinstance(batch, Batch)
    errors = np.array([np.nan, 7.0, np.nan, np.nan, np.nan], np.float32)
    playing.replay.settle(batch, Learned({}, lost=4, priorities=errors))
    playing.replay.account()
    (report,) = playing.replay._pool.reports(AGENT)
    # Tasks have scales of their own: the first error of one is the mean of its errors.
    assert report.mass == pytest.approx(report.items - 1 + 1)
