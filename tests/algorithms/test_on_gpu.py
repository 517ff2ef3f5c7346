"""Learner and policy on a GPU do what they do on a CPU."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from unrolls import random_unroll

from machina.algorithms.actor_critic.config import ActorCriticConfig
from machina.algorithms.impala.config import ImpalaConfig
from machina.algorithms.impala.learning import ImpalaLearner
from machina.algorithms.ppo.config import PPOConfig
from machina.algorithms.ppo.learning import PPOLearner
from machina.learner.sums import SINGLE_RANK, join_ranks
from machina.nets.policy import SampledPolicy
from machina.nets.precision import resolve_precision
from machina.specs import ArraySpec, EnvSpec, discrete
from machina.types import BEHAVIOUR_LOGITS, ActorInput, Array, Unroll

pytestmark = pytest.mark.gpu

T, B = 10, 6
IMAGE = EnvSpec(
    name="image",
    tasks=("left", "right", "far"),
    observation={"observation": ArraySpec(shape=(4, 84, 84), dtype="uint8")},
    action=discrete(6),
    frame_stack=4,
)
VECTOR = IMAGE.model_copy(
    update={"observation": {"observation": ArraySpec(shape=(5,), dtype="float32")}, "frame_stack": 1}
)


@pytest.fixture(autouse=True)
def full_float32() -> Iterator[None]:
    """Convolutions in TensorFloat-32, the default on GPUs, keep ten bits only."""
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = True


def make_learner(algorithm: str, spec: EnvSpec, device: str, **options: Any) -> ImpalaLearner | PPOLearner:
    arguments = (spec, device, "float32", 0, SINGLE_RANK)
    if algorithm == "ppo":
        return PPOLearner(PPOConfig.model_validate({"unroll_length": T, "batch_size": B, **options}), *arguments)
    return ImpalaLearner(ImpalaConfig.model_validate(options), *arguments)


def played(unroll: Unroll[Array], learner: ImpalaLearner | PPOLearner) -> Unroll[Array]:
    """The unroll with logits of about the network's scale: PPO's ratios are then near 1, as in a run."""
    core = tuple(np.full((B, *shape), 0.1, np.float32) for shape in learner.model.network.core_state_shapes)
    return unroll._replace(
        policy_outputs={BEHAVIOUR_LOGITS: unroll.policy_outputs[BEHAVIOUR_LOGITS] * 0.01}, core_state=core
    )


@pytest.mark.parametrize("algorithm", ["impala", "ppo"])
@pytest.mark.parametrize("spec", [IMAGE, VECTOR], ids=["image", "vector"])
@pytest.mark.parametrize("lstm_size", [0, 16])
@pytest.mark.parametrize("popart", [False, True])
def test_updates_are_those_of_a_cpu(algorithm: str, spec: EnvSpec, lstm_size: int, popart: bool) -> None:
    options: dict[str, Any] = {"popart": popart, "network": {"lstm_size": lstm_size}}
    if spec is VECTOR:
        options["network"] |= {"observation_filter": True}
    cpu, gpu = (make_learner(algorithm, spec, device, **options) for device in ("cpu", "cuda"))
    start = cpu.flat_parameters()
    assert torch.equal(start, gpu.flat_parameters())
    for seed in range(3):
        unroll = played(random_unroll(spec, T, B, seed), cpu)
        (metrics, skipped, *_), same = cpu.update(unroll, 0.0), gpu.update(unroll, 0.0).metrics
        assert not skipped
        # One minus a ratio near one: small differences of the values show.
        explained = metrics.pop("learner/explained_variance")
        assert same.pop("learner/explained_variance") == pytest.approx(explained, abs=1e-2)
        assert same == pytest.approx(metrics, rel=2e-2, abs=1e-3)
    moved = cpu.flat_parameters() - start
    assert moved.norm() > 1e-3
    assert (gpu.flat_parameters() - cpu.flat_parameters()).norm() < 0.05 * moved.norm()


@pytest.mark.parametrize("algorithm", ["impala", "ppo"])
def test_a_state_goes_from_the_gpu_to_a_cpu_and_back(algorithm: str) -> None:
    options: dict[str, Any] = {"popart": True, "network": {"lstm_size": 16, "observation_filter": True}}
    gpu, cpu, other = (make_learner(algorithm, VECTOR, device, **options) for device in ("cuda", "cpu", "cuda"))
    gpu.update(played(random_unroll(VECTOR, T, B, 0), gpu), 0.0)
    cpu.load_state(gpu.state())
    other.load_state(cpu.state())
    assert torch.equal(other.flat_parameters(), gpu.flat_parameters())
    unroll = played(random_unroll(VECTOR, T, B, 1), gpu)
    assert other.update(unroll, 0.0).metrics == pytest.approx(gpu.update(unroll, 0.0).metrics, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("lstm_size", [0, 16])
def test_the_policy_answers_as_on_a_cpu(lstm_size: int) -> None:
    config = ActorCriticConfig.model_validate({"network": {"lstm_size": lstm_size}}).network
    cpu, gpu = (SampledPolicy(config, IMAGE, device, "float32") for device in ("cpu", "cuda"))
    flat = make_learner("impala", IMAGE, "cpu", network={"lstm_size": lstm_size}).flat_parameters()
    random = np.random.default_rng(0)
    inputs = ActorInput(
        {"observation": random.integers(0, 256, (B, 4, 84, 84)).astype(np.uint8)},
        random.normal(size=B).astype(np.float32),
        random.integers(0, 6, B),
        np.zeros(B, np.bool_),
        np.arange(B) % 3,
        cpu.initial_core_state(B),
        random.random(B).astype(np.float32),
        np.arange(B),
    )
    answers = []
    for policy in (cpu, gpu):
        policy.load_parameters(flat, done=0.0)
        answers.append(policy.act(inputs))
    assert np.array_equal(answers[0].action, answers[1].action)
    np.testing.assert_allclose(
        answers[0].policy_outputs[BEHAVIOUR_LOGITS], answers[1].policy_outputs[BEHAVIOUR_LOGITS], atol=1e-4
    )
    for core, same in zip(answers[0].core_state, answers[1].core_state, strict=True):
        np.testing.assert_allclose(core, same, atol=1e-4)


def test_images_are_learned_in_bfloat16() -> None:
    assert resolve_precision("auto", torch.device("cuda"), IMAGE.observation_bytes).dtype == torch.bfloat16


def test_sums_over_ranks_use_nccl() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = join_ranks(0, 1, f"tcp://127.0.0.1:{port}", torch.device("cuda"), timeout_s=60)
    try:
        assert torch.distributed.get_backend() == "nccl"
        tensor = torch.arange(5.0, device="cuda")
        ranks.add_up([tensor, torch.ones(2, dtype=torch.float64, device="cuda")])
        assert tensor.tolist() == [0, 1, 2, 3, 4]
    finally:
        ranks.close()
