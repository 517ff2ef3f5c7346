"""Frames of real Atari games through the real actors' code: what is replayed is what the policy saw, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from machina.actors.slot_group import SlotGroup
from machina.actors.stepping import InlineStepper
from machina.buffers.layout import Layout
from machina.buffers.priorities import PriorityRule
from machina.buffers.replay_store import ReplayStore
from machina.envs.builders import parse_environment
from machina.envs.config import AtariConfig
from machina.losses.alignment import aligned
from machina.nets.frames import stacked_frames
from machina.nets.unroll_tensors import to_device
from machina.specs import ArraySpec
from machina.types import ActorInput, ActorOutput, Array, CoreState, Unroll

SERIAL = {"serial": ArraySpec(shape=(), dtype="float64")}


class SeeingPolicy:
    """Acts at random and remembers every stack under a number that it leaves in the unroll."""

    def __init__(self) -> None:
        self.seen: list[Array] = [np.zeros(0)]

    def initial_core_state(self, num_slots: int) -> CoreState:  # noqa: ARG002
        return ()

    def act(self, inputs: ActorInput) -> ActorOutput:
        stacks = inputs.observation["observation"]
        serials = len(self.seen) + np.arange(len(stacks), dtype=np.float64)
        self.seen.extend(stacks.copy())
        return ActorOutput((inputs.uniforms * 4).astype(np.int64), {"serial": serials}, ())

    def load_parameters(self, parameters: Tensor, done: float) -> None:
        """It has none."""

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """It has none."""


def unrolls(policy: SeeingPolicy, count: int, T: int) -> Iterator[Unroll[Array]]:  # noqa: N803
    """Of two slots of Breakout, whose episodes are cut after 120 steps if the last life is not lost before.

    The environment is replaced now and then.
    """
    factory = parse_environment("breakout", AtariConfig(frame_cap=480))

    def make() -> InlineStepper:
        return InlineStepper(factory.make([0, 0]), pytest.fail)

    group = SlotGroup(make, policy, None, np.arange(2), 0, T, SERIAL, 60.0, {})
    for number in range(count):
        group.open_unroll(number)
        replaced = number % 40 != 20
        while not group.full:
            group.act()
            if group.filled == T // 2 and not replaced:
                group.replace(number)
                replaced = True
            else:
                group.receive()
        unroll, release = group.finish_unroll()
        yield unroll
        release()
    group.close()


def test_stacks_are_those_that_the_policy_saw_however_they_are_stored() -> None:
    steps, window = 20, 3
    policy = SeeingPolicy()
    spec = parse_environment("breakout", AtariConfig(frame_cap=480)).spec
    layout = Layout(spec, SERIAL, (), steps, window, every_step=True, compressed=False)
    rule = PriorityRule("none", 0.0, 0.0)
    stores = [ReplayStore(layout._replace(compressed=packed), 2 * 1500, 2, rule, None) for packed in (False, True)]
    ends = 0
    for number, unroll in enumerate(unrolls(policy, 100, steps)):
        for store in stores:
            store.put(unroll)
        ends += int((unroll.terminated | unroll.truncated).sum())
        if number % 33 == 32:
            for store in stores:
                compare(store, policy)
    assert ends > 20
    assert min(store.removed for store in stores) > 500


def compare(store: ReplayStore, policy: SeeingPolicy) -> None:
    """Every entry of every item, until its episode ends, against what was seen there."""
    count, compared = store.num_items, 0
    for chosen in np.array_split((np.arange(count) + 0.5) / count, 10):
        drawn = store.draw(chosen).unroll
        steps = aligned(to_device(drawn, torch.device("cpu")))
        stacks = stacked_frames(torch.from_numpy(drawn.observation["observation"]), steps.first).numpy()
        serials = drawn.policy_outputs["serial"].astype(np.int64)
        alive = np.ones(len(chosen), np.bool_)
        for t in range(len(serials)):
            for k in np.flatnonzero(alive & (serials[t] > 0)):
                assert np.array_equal(stacks[t, k], policy.seen[serials[t, k]])
                compared += 1
            alive &= ~(drawn.terminated[t] | drawn.truncated[t])
    assert compared > 3.8 * count
