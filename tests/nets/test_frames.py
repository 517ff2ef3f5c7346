from collections import deque
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from machina.nets.frames import stacked_frames


class NaiveStacker:
    """One slot's stack as an environment keeps it."""

    def __init__(self, stack: int, shape: tuple[int, int]) -> None:
        self.zero = np.zeros(shape, np.uint8)
        self.frames: deque[np.ndarray] = deque([self.zero] * stack, maxlen=stack)

    def show(self, frame: np.ndarray, first: bool) -> np.ndarray:
        if first:
            self.frames.extend([self.zero] * len(self.frames))
        self.frames.append(frame)
        return np.stack(self.frames)


def unrolls_of(
    stacks: np.ndarray,
    first: np.ndarray,
    T: int,  # noqa: N803
    stack: int,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Cut [N, B, stack, H, W] into unrolls that share their border entry, frames stored once."""
    for start in range(0, len(stacks) - T, T):
        entries = slice(start, start + T + 1)
        before = stacks[start].swapaxes(0, 1)[: stack - 1]
        frames = np.concatenate([before, stacks[entries, :, -1]])
        yield torch.from_numpy(frames), torch.from_numpy(first[entries]), torch.from_numpy(stacks[entries])


@pytest.mark.parametrize("stack", [2, 3, 4])
@pytest.mark.parametrize("T", [1, 2, 5, 17])
def test_equals_a_naive_stacker_under_random_resets(stack: int, T: int) -> None:  # noqa: N803
    random = np.random.default_rng(stack * 100 + T)
    slots, length, shape = 3, 103, (5, 7)
    first = random.random((length, slots)) < 0.2
    first[0] = True
    first[20:23, 1] = True  # resets in a row, as episodes of one step give
    newest = random.integers(1, 256, (length, slots, *shape), dtype=np.uint8)
    twins = [NaiveStacker(stack, shape) for _ in range(slots)]
    stacks = np.stack(
        [np.stack([twins[b].show(newest[t, b], bool(first[t, b])) for b in range(slots)]) for t in range(length)]
    )
    count = 0
    for frames, opens, expected in unrolls_of(stacks, first, T, stack):
        assert torch.equal(stacked_frames(frames, opens), expected)
        count += 1
    assert count >= 6


def test_batches_are_channels_last_without_a_copy() -> None:
    stacks = stacked_frames(torch.zeros(6, 2, 9, 8, dtype=torch.uint8), torch.zeros(3, 2, dtype=torch.bool))
    assert stacks.shape == (3, 2, 4, 9, 8)
    flat = stacks.flatten(0, 1)
    assert flat.is_contiguous(memory_format=torch.channels_last)
    assert flat.data_ptr() == stacks.data_ptr()


def test_equals_the_stacks_of_atari_over_episode_ends() -> None:
    from ale_py.vector_env import AtariVectorEnv

    slots, steps, T, stack = 4, 500, 20, 4  # noqa: N806
    env = AtariVectorEnv(game="breakout", num_envs=slots, stack_num=stack, noop_max=30, use_fire_reset=False)
    random = np.random.default_rng(0)
    observation, _ = env.reset(seed=7)
    stacks, first = [observation.copy()], [np.ones(slots, bool)]
    done = np.zeros(slots, bool)
    for _ in range(steps):
        actions = random.integers(0, len(env.ale.get_action_set()), slots)
        observation, _, terminated, truncated, _ = env.step(actions)
        stacks.append(observation.copy())
        first.append(done)
        done = terminated | truncated
    env.close()
    assert np.stack(first)[1:].sum() >= 4
    for frames, opens, expected in unrolls_of(np.stack(stacks), np.stack(first), T, stack):
        assert torch.equal(stacked_frames(frames, opens), expected)
