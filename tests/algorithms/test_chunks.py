"""What goes through the network at once on a CPU: as much as its caches hold, measured with Atari's observations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from by_hand import LINEAR
from unrolls import random_unroll

from machina.algorithms.impala.config import ImpalaConfig
from machina.algorithms.impala.learning import ImpalaLearner
from machina.algorithms.ppo.config import PPOConfig
from machina.algorithms.ppo.learning import PPOLearner
from machina.learner.minibatches import chunk_items
from machina.learner.sums import SINGLE_RANK
from machina.specs import ArraySpec, EnvSpec, discrete


def shapes_seen(learner: Any, spec: EnvSpec, slots: int) -> list[list[int]]:
    """``[T, B]`` of every pass of an update from unrolls of 8 steps."""
    seen: list[list[int]] = []
    learner.model.network.register_forward_pre_hook(lambda _, inputs: seen.append(list(inputs[0].reward.shape)))
    core_state = tuple(np.zeros((slots, *shape), np.float32) for shape in learner.model.network.core_state_shapes)
    learner.update(random_unroll(spec, 8, slots, seed=0, core_state=core_state), 0.0)
    return seen


def spec_of(shape: tuple[int, ...], dtype: str) -> EnvSpec:
    observation = {"observation": ArraySpec(shape=shape, dtype=dtype)}
    return EnvSpec(name="sized", tasks=("one",), observation=observation, action=discrete(4))


def ppo(spec: EnvSpec, **network: Any) -> PPOLearner:
    config = PPOConfig.model_validate({"network": LINEAR | network, "minibatches": 1, "epochs": 1})
    return PPOLearner(config, spec, "cpu", "float32", 0, SINGLE_RANK)


def test_impala_takes_unrolls_of_256_entries_at_once() -> None:
    spec = spec_of((3,), "float32")
    config = ImpalaConfig.model_validate({"network": LINEAR})
    learner = ImpalaLearner(config, spec, "cpu", "float32", 0, SINGLE_RANK)
    assert shapes_seen(learner, spec, 60) == [[9, 28], [9, 28], [9, 4]]


@pytest.mark.parametrize("recurrent", [False, True])
def test_ppo_takes_256_observations_of_atari_at_once(recurrent: bool) -> None:
    """Values of whole unrolls with their last entry; then single steps, or a recurrent network's unrolls of 8."""
    spec = spec_of((4, 84, 84), "uint8")
    learner = ppo(spec, lstm_size=2) if recurrent else ppo(spec)
    epoch = [[8, 32], [8, 28]] if recurrent else [[1, 256], [1, 224]]
    assert shapes_seen(learner, spec, 60) == [[9, 28], [9, 28], [9, 4], *epoch]


def test_small_observations_count_as_much_as_a_hidden_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("machina.learner.minibatches.CPU_CHUNK_BYTES", 10 * 256)
    small, large = spec_of((3,), "float32"), spec_of((65,), "float32")
    assert shapes_seen(ppo(small), small, 2) == [[9, 1]] * 2 + [[1, 10], [1, 6]]
    assert shapes_seen(ppo(large), large, 2) == [[9, 1]] * 2 + [[1, 9], [1, 7]]


def test_popart_s_scale_of_large_rewards_is_that_of_their_differences() -> None:
    """Of chunks that add up, in float64: the squares of 30,000 differ by less than float32 holds."""
    spec = spec_of((3,), "float32")
    options = {"network": LINEAR, "popart": True, "popart_beta": 1.0, "reward_clip": "none", "gamma": 1e-9}
    learner = ImpalaLearner(ImpalaConfig.model_validate(options), spec, "cpu", "float32", 0, SINGLE_RANK)
    learner.model.network.get_parameter("policy_head.weight").data.zero_()
    batch = random_unroll(spec, 8, 60, seed=0)
    never = np.zeros_like(batch.terminated)
    reward = batch.reward + np.float32(30_000)
    outputs = {name: np.zeros_like(each) for name, each in batch.policy_outputs.items()}
    batch = batch._replace(terminated=never, truncated=never, life_lost=never)
    learner.update(batch._replace(reward=reward, policy_outputs=outputs), 0.0)
    popart = learner.model.popart
    assert popart is not None
    assert popart.sigma.item() == pytest.approx(reward[1:].astype(np.float64).std(), rel=1e-2)


def test_a_gpu_takes_everything_at_once() -> None:
    assert chunk_items(torch.device("cuda"), 4 * 84 * 84, entries=129) >= 100_000
