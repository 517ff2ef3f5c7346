"""What r2d3 learns of demonstrations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from made_episodes import STACKED, write

from machina.algorithms.r2d3.config import R2D3Config
from machina.algorithms.replaying.memory import layout_of, make_replay
from machina.buffers.buffer import BufferSizes, joined
from machina.demonstrations import load_set
from machina.launch.places import LocalShards
from machina.losses.alignment import aligned
from machina.nets.unroll_tensors import network_input, to_device
from machina.types import OBSERVATION, Array

BURN_IN, LEARNED, UNROLL = 6, 8, 4


def test_every_step_of_every_episode_is_learned_from_the_first_on(tmp_path: Path) -> None:
    """The first ones behind a burn-in of nothing, which ends with the core state."""
    for length in (3, 21, 40):
        write(tmp_path, STACKED, length)
    sizes = {"unroll_length": UNROLL, "burn_in_length": BURN_IN, "sequence_length": LEARNED, "batch_size": 64}
    config = R2D3Config.model_validate({**sizes, "demos": tmp_path, "pretraining_updates": 20, "learning_starts": 1})
    buffer_sizes = BufferSizes(64, UNROLL, 1, None, False, 1, 10_000, 1)
    replay = make_replay(config, layout_of(config, STACKED, {}), load_set(tmp_path), None, buffer_sizes, LocalShards())
    learned: list[float] = []
    shown: dict[float, Array] = {}
    for _ in range(config.pretraining_updates):
        batch = replay.take(0, 1.0)
        assert batch is not None
        unroll = to_device(joined(batch.share(0, 1)), torch.device("cpu"))
        replay.settle(batch, None)
        steps = aligned(unroll)
        inputs = network_input(unroll, steps.first, steps.previous_actions, STACKED)
        counts = steps.mask[BURN_IN:]
        learned += steps.rewards[BURN_IN:][counts].tolist()
        stacks = inputs.observation[OBSERVATION][BURN_IN:-1][counts]
        shown |= dict(zip(steps.rewards[BURN_IN:][counts].tolist(), stacks.numpy(), strict=True))
        openings = steps.first[BURN_IN:-1][counts]
        assert (steps.previous_actions[BURN_IN:-1][counts][openings] == -1).all()
        assert openings.any()
    expected = {}
    for episode in load_set(tmp_path).episodes:
        arrays = episode.arrays()
        for step, reward in enumerate(arrays["reward"][1:].tolist()):
            expected[reward] = arrays[f"observation/{OBSERVATION}"][step : step + STACKED.frame_stack]
    assert set(learned) == expected.keys()
    for reward, stack in expected.items():
        np.testing.assert_array_equal(shown[reward], stack)
