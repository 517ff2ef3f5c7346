import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from unrolls import random_unroll

import machina.algorithms.impala.learning as learning
from machina.algorithms.impala.builder import build
from machina.algorithms.impala.config import ImpalaConfig
from machina.algorithms.impala.learning import ImpalaLearner
from machina.algorithms.impala_popart.config import ImpalaPopArtConfig
from machina.buffers.unrolls import concatenate_slots
from machina.errors import UserError
from machina.interfaces import LearnerState
from machina.learner.sums import SINGLE_RANK
from machina.nets.config import NetworkConfig
from machina.nets.distributions import Categorical
from machina.nets.network import NetworkOutput
from machina.specs import ArraySpec, EnvSpec, discrete
from machina.types import BEHAVIOUR_LOGITS, NO_ACTION, ActorInput, Array, Unroll

TOTAL = 10_000


def make_learner(spec: EnvSpec, seed: int = 0, **options: Any) -> ImpalaLearner:
    config = ImpalaConfig.model_validate(options)
    return ImpalaLearner(config, spec, "cpu", "float32", seed, SINGLE_RANK)


def recorded_outputs(learner: ImpalaLearner) -> list[NetworkOutput]:
    outputs: list[NetworkOutput] = []
    learner.model.network.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    return outputs


def everything(state: LearnerState) -> dict[str, torch.Tensor]:
    return {f"{stem}/{name}": tensor for stem, tensors in state.tensors.items() for name, tensor in tensors.items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("lstm_size", [0, 8])
def test_the_policy_never_sees_the_task(image_spec: EnvSpec, lstm_size: int) -> None:
    logits, vectors = [], []
    for shift in (0, 1):
        learner = make_learner(image_spec, popart=True, network={"lstm_size": lstm_size, "hidden_sizes": [16]})
        core_state = tuple(np.full((6, lstm_size), 0.1, np.float32) for _ in learner.model.network.core_state_shapes)
        batch = random_unroll(image_spec, 5, 6, seed=0, core_state=core_state)
        outputs = recorded_outputs(learner)
        learner.update(batch._replace(task_id=(batch.task_id + shift) % 3), 0.0)
        logits.append(torch.cat([output.logits for output in outputs], dim=1))
        vectors.append(learner.flat_parameters())
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(vectors[0], vectors[1])  # the value heads did learn from another task


def test_only_the_slots_own_value_head_learns(vector_spec: EnvSpec) -> None:
    learner = make_learner(vector_spec)
    before = learner.model.network.value_head.weight.detach().clone()
    batch = random_unroll(vector_spec, 5, 4, seed=0)
    learner.update(batch._replace(task_id=np.ones(4, np.int64)), 0.0)
    after = learner.model.network.value_head.weight.detach()
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])
    assert torch.equal(before[2], after[2])


@pytest.mark.parametrize("popart", [False, True])
def test_the_gradient_equals_a_hand_derivation(vector_spec: EnvSpec, popart: bool) -> None:
    """One step, one slot, on-policy, so rho = 1 and vs_0 = r + gamma V(x_1).

    d loss / d logits_0 = A (p - onehot(a)) + entropy_cost p (log p + H); d loss / d n_0 = baseline_cost (n_0 - target),
    both with normalized target and A = target - n_0; nothing flows into entry 1.
    """
    learner = make_learner(vector_spec, popart=popart, reward_clip="none", max_grad_norm=1e9)
    task, action, reward = 1, 2, 40.0
    if learner.model.popart is not None:
        learner.model.popart.load_state({"mu": torch.tensor([1.0, 30.0, 2.0]), "nu": torch.tensor([2.0, 1000.0, 5.0])})
    mu, sigma = (30.0, 10.0) if popart else (0.0, 1.0)
    outputs = recorded_outputs(learner)
    batch = random_unroll(vector_spec, 1, 1, seed=1)
    never = np.zeros((2, 1), bool)
    batch = batch._replace(
        terminated=never,
        truncated=never,
        life_lost=never,
        reward=np.array([[9.0], [reward]], np.float32),
        action=np.array([[action], [0]]),
        task_id=np.array([task]),
    )
    learner.update(batch, 0.0)  # to see the logits
    fresh = make_learner(vector_spec, popart=popart, reward_clip="none", max_grad_norm=1e9)
    if fresh.model.popart is not None:
        fresh.model.popart.load_state({"mu": torch.tensor([1.0, 30.0, 2.0]), "nu": torch.tensor([2.0, 1000.0, 5.0])})
    logits, values = outputs[0].logits.detach(), outputs[0].values.detach()
    watched = recorded_outputs(fresh)
    fresh.model.network.register_forward_hook(
        lambda _module, _inputs, output: (output.logits.retain_grad(), output.values.retain_grad(), None)[-1]
    )
    fresh.update(batch._replace(policy_outputs={BEHAVIOUR_LOGITS: logits.numpy()}), 0.0)

    p = logits[0, 0].softmax(0)
    entropy = -(p * p.log()).sum()
    n_0, n_1 = values[:, 0, task].tolist()
    target = (reward + 0.99 * (sigma * n_1 + mu) - mu) / sigma
    choice = torch.nn.functional.one_hot(torch.tensor(action), 4)
    expected = (target - n_0) * (p - choice) + 0.01 * p * (p.log() + entropy)
    gradient = watched[0].logits.grad
    assert gradient is not None
    torch.testing.assert_close(gradient[0, 0], expected)
    assert not gradient[1].any()
    expected_value = torch.zeros(2, 1, 3)
    expected_value[0, 0, task] = 0.5 * (n_0 - target)
    torch.testing.assert_close(watched[0].values.grad, expected_value)


def test_losses_are_sums_over_batch_and_time(vector_spec: EnvSpec) -> None:
    batch = random_unroll(vector_spec, 5, 4, seed=0)
    twice = concatenate_slots([batch, batch])
    one, two = (
        make_learner(vector_spec).update(batch, 0.0).metrics,
        make_learner(vector_spec).update(twice, 0.0).metrics,
    )
    for name in ("total_loss", "policy_loss", "baseline_loss", "grad_norm"):
        assert two[f"learner/{name}"] == pytest.approx(2 * one[f"learner/{name}"], rel=1e-5)
    for name in ("entropy", "rho", "explained_variance"):
        assert two[f"learner/{name}"] == pytest.approx(one[f"learner/{name}"], rel=1e-5)


def test_chunks_of_slots_add_up_to_the_whole_batch(image_spec: EnvSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, metrics = [], []
    for entries in (1, 18, 10_000):
        monkeypatch.setattr(learning, "CPU_CHUNK_ENTRIES", entries)
        learner = make_learner(image_spec, popart=True, popart_beta=0.1)
        metrics.append(learner.update(random_unroll(image_spec, 5, 7, seed=0), 0.0).metrics)
        vectors.append(learner.flat_parameters())
    for vector, shown in zip(vectors[1:], metrics[1:], strict=True):
        torch.testing.assert_close(vector, vectors[0], rtol=1e-4, atol=1e-6)
        assert shown == pytest.approx(metrics[0], rel=1e-3, abs=1e-6)


def test_reset_steps_count_for_nothing(vector_spec: EnvSpec) -> None:
    """What an actor saw and chose at a task's last entry, and what came back, must not reach the loss."""
    batch = random_unroll(vector_spec, 9, 6, seed=2)
    done = batch.terminated | batch.truncated
    assert done[:-1].any()
    action, reward, logits = batch.action.copy(), batch.reward.copy(), batch.policy_outputs[BEHAVIOUR_LOGITS].copy()
    action[done] = (action[done] + 1) % 4
    logits[done] += np.arange(4)
    reward[1:][done[:-1]] += 50
    seen = batch.observation["observation"].copy()
    ended = batch.terminated & ~batch.truncated  # the value of what a limit cut is bootstrapped from
    assert ended[:-1].any()
    seen[ended] *= -3
    changed = batch._replace(
        action=action, reward=reward, policy_outputs={BEHAVIOUR_LOGITS: logits}, observation={"observation": seen}
    )
    learners = [make_learner(vector_spec, popart=True, reward_clip="none") for _ in range(2)]
    learners[0].update(batch, 0.0)
    learners[1].update(changed, 0.0)
    assert same(everything(learners[0].state()), everything(learners[1].state()))


def test_reward_clip(vector_spec: EnvSpec) -> None:
    batch = random_unroll(vector_spec, 5, 4, seed=0)
    clipped = batch._replace(reward=batch.reward.clip(-1, 1))
    assert not np.array_equal(batch.reward, clipped.reward)
    vectors = []
    for choice, unroll in (("clip", batch), ("none", clipped), ("none", batch)):
        learner = make_learner(vector_spec, reward_clip=choice)
        learner.update(unroll, 0.0)
        vectors.append(learner.flat_parameters())
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])
    # Left alone, only the rewards of Atari games are clipped.
    for spec, vector in (
        (vector_spec, vectors[2]),
        (vector_spec.model_copy(update={"clip_rewards": True}), vectors[0]),
    ):
        learner = make_learner(spec)
        learner.update(batch, 0.0)
        assert torch.equal(learner.flat_parameters(), vector)


def test_the_gradient_norm_is_clipped(vector_spec: EnvSpec) -> None:
    learner = make_learner(vector_spec, max_grad_norm=0.5)
    metrics = learner.update(random_unroll(vector_spec, 5, 4, seed=0), 0.0).metrics
    assert metrics["learner/grad_norm"] > 0.5
    norms = [parameter.grad.norm() for parameter in learner.model.network.parameters() if parameter.grad is not None]
    assert torch.stack(norms).norm().item() == pytest.approx(0.5, rel=1e-4)


def test_the_learning_rate_falls_linearly_to_zero(vector_spec: EnvSpec) -> None:
    learner = ImpalaLearner(ImpalaConfig(learning_rate=0.1), vector_spec, "cpu", "float32", 0, SINGLE_RANK)
    batch = random_unroll(vector_spec, 5, 4, seed=0)
    rates = [learner.update(batch, done).metrics["learner/learning_rate"] for done in (0.0, 1 / 3, 2 / 3)]
    assert rates == pytest.approx([0.1, 0.1 * 2 / 3, 0.1 / 3])
    before = learner.flat_parameters()
    for done in (1.0, 1.2):
        assert learner.update(batch, done).metrics["learner/learning_rate"] == 0.0
    assert torch.equal(before, learner.flat_parameters())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_a_batch_that_is_not_finite_changes_nothing(vector_spec: EnvSpec, bad: float, optimizer: str) -> None:
    learner = make_learner(vector_spec, popart=True, reward_clip="none", optimizer=optimizer)
    batch = random_unroll(vector_spec, 5, 4, seed=0)
    assert learner.update(batch, 0.0).skipped is False
    before = everything(learner.state())
    reward = batch.reward.copy()
    steps = ~(batch.terminated | batch.truncated)[:-1]
    reward[1:][steps] = bad
    assert learner.update(batch._replace(reward=reward), 0.0).skipped is True
    assert same(before, everything(learner.state()))
    assert learner.update(batch, 0.0).skipped is False
    assert not same(before, everything(learner.state()))


@pytest.mark.parametrize(
    "options",
    [
        {"popart": True, "rmsprop_momentum": 0.5, "network": {"lstm_size": 8, "hidden_sizes": [16]}},
        {"optimizer": "adam"},
        {"optimizer": "adam", "popart": True, "network": {"torso": "deep"}},
    ],
)
def test_a_restored_learner_continues_bit_for_bit(image_spec: EnvSpec, options: dict[str, Any]) -> None:
    learner = make_learner(image_spec, seed=1, **options)
    core_state = tuple(np.zeros((5, *shape), np.float32) for shape in learner.model.network.core_state_shapes)
    batches = [random_unroll(image_spec, 4, 5, seed, core_state) for seed in range(5)]
    for batch in batches[:3]:
        learner.update(batch, 0.0)
    state = learner.state()
    tensors = {stem: load(save(named)) for stem, named in state.tensors.items()}
    restored = make_learner(image_spec, seed=2, **options)
    restored.load_state(LearnerState(tensors, json.loads(json.dumps(state.values))))
    for batch in batches[3:]:
        assert learner.update(batch, 0.0).metrics == restored.update(batch, 0.0).metrics
    assert torch.equal(learner.flat_parameters(), restored.flat_parameters())
    assert same(everything(learner.state()), everything(restored.state()))


def test_a_state_is_a_copy(vector_spec: EnvSpec) -> None:
    learner = make_learner(vector_spec, popart=True)
    state = learner.state()
    kept = {name: tensor.clone() for name, tensor in everything(state).items()}
    learner.update(random_unroll(vector_spec, 5, 4, seed=0), 0.0)
    assert same(kept, everything(state))


def own_values(learner: ImpalaLearner, batch: Unroll[Array]) -> torch.Tensor:
    """Values of the batch in units of the rewards, before the update that shows them."""
    outputs = recorded_outputs(learner)
    mu, sigma = (0.0, 1.0) if learner.model.popart is None else (learner.model.popart.mu, learner.model.popart.sigma)
    learner.update(batch, 0.0)
    return sigma * outputs[0].values.detach() + mu


@pytest.mark.parametrize(("source_popart", "target_popart"), [(True, True), (True, False), (False, True)])
def test_starting_from_another_runs_policy_and_value(
    vector_spec: EnvSpec, source_popart: bool, target_popart: bool
) -> None:
    source = make_learner(vector_spec, seed=1, popart=source_popart, popart_beta=0.2)
    batch = random_unroll(vector_spec, 5, 4, seed=0)
    source.update(batch, 0.0)
    model = source.state().tensors["model"]

    policy_only = make_learner(vector_spec, seed=2, popart=target_popart)
    fresh_head = policy_only.model.network.value_head.weight.detach().clone()
    policy_only.load_initial(model, with_value=False)
    assert torch.equal(policy_only.model.network.value_head.weight, fresh_head)
    assert torch.equal(policy_only.model.network.get_parameter("policy_head.weight"), model["policy_head.weight"])

    both = make_learner(vector_spec, seed=2, popart=target_popart)
    both.load_initial(model, with_value=True)
    assert both.updates == 0
    torch.testing.assert_close(own_values(both, batch).float(), own_values(source, batch).float())


def test_starting_from_another_number_of_tasks_needs_a_fresh_value(vector_spec: EnvSpec) -> None:
    model = make_learner(vector_spec).state().tensors["model"]
    learner = make_learner(vector_spec.model_copy(update={"tasks": ("one",)}))
    learner.load_initial(model, with_value=False)
    with pytest.raises(UserError, match=r"value_head\.weight"):
        learner.load_initial(model, with_value=True)


def test_popart_metrics_and_statistics_per_task(vector_spec: EnvSpec) -> None:
    config = ImpalaPopArtConfig(reward_clip="none", popart_beta=0.1)
    learner = ImpalaLearner(config, vector_spec, "cpu", "float32", 0, SINGLE_RANK)
    batch = random_unroll(vector_spec, 5, 6, seed=0)
    batch = batch._replace(reward=batch.reward * 10.0 ** (2 * batch.task_id).astype(np.float32))
    for _ in range(10):
        metrics = learner.update(batch, 0.0).metrics
    sigmas = [metrics[f"popart/sigma/{task}"] for task in vector_spec.tasks]
    assert sigmas[0] < sigmas[1] / 10 < sigmas[2] / 100
    assert "popart/mu/far" in metrics
    assert not any(name.startswith("popart/") for name in make_learner(vector_spec).update(batch, 0.0).metrics)


def test_clips_that_vtrace_cannot_use_are_refused() -> None:
    with pytest.raises(ValidationError, match="rho_clip"):
        ImpalaConfig(rho_clip=0.5)
    with pytest.raises(ValidationError, match="popart_sigma_min"):
        ImpalaConfig(popart_sigma_min=2.0, popart_sigma_max=1.0)


@pytest.mark.parametrize(("popart", "reward_scale"), [(False, 1.0), (True, 1.0), (True, 1000.0)])
def test_learns_to_name_the_context_it_sees(popart: bool, reward_scale: float) -> None:
    """A bandit with three contexts through the real policy: reward for the action that equals the context."""
    contexts, slots, length = 3, 8, 5
    spec = EnvSpec(
        name="bandit",
        tasks=("bandit",),
        observation={"observation": ArraySpec(shape=(contexts,), dtype="float32")},
        action=discrete(contexts),
    )
    config = ImpalaConfig(
        optimizer="adam",
        learning_rate=0.02,
        gamma=1e-9,
        popart=popart,
        popart_beta=0.05,
        reward_clip="none",
        network=NetworkConfig(hidden_sizes=(16,)),
    )
    algorithm = build(config)
    updates = 60
    learner = algorithm.make_learner(spec, "cpu", "float32", seed=0, ranks=SINGLE_RANK)
    policy = algorithm.make_policy(spec, "cpu", "float32", explores=True, num_slots=8)
    random = np.random.default_rng(0)
    never = np.zeros((length + 1, slots), bool)
    for update in range(updates):
        policy.load_parameters(learner.flat_parameters(), done=0.0)
        context = random.integers(0, contexts, (length + 1, slots))
        observation = np.eye(contexts, dtype=np.float32)[context]
        answers = [
            policy.act(
                ActorInput(
                    {"observation": observation[t]},
                    np.zeros(slots, np.float32),
                    np.full(slots, NO_ACTION),
                    ~never[t],
                    np.zeros(slots, np.int64),
                    (),
                    random.random(slots, dtype=np.float32),
                    np.arange(slots),
                )
            )
            for t in range(length + 1)
        ]
        action = np.stack([answer.action for answer in answers])
        reward = np.zeros((length + 1, slots), np.float32)
        reward[1:] = reward_scale * (action == context)[:-1]
        learner.update(
            Unroll(
                observation={"observation": observation},
                reward=reward,
                team_reward=reward,
                enemy_reward=np.zeros_like(reward),
                on_turn=~never,
                foreign=never,
                first=~never[0],
                terminated=never,
                truncated=never,
                life_lost=never,
                action=action,
                policy_outputs={
                    BEHAVIOUR_LOGITS: np.stack([answer.policy_outputs[BEHAVIOUR_LOGITS] for answer in answers])
                },
                core_state=(),
                previous_action=np.full(slots, NO_ACTION),
                task_id=np.zeros(slots, np.int64),
                slot=np.arange(slots),
                policy_version=np.zeros(slots, np.int64),
                start=np.zeros(slots, np.int64),
                weight=np.ones(slots, np.float32),
            ),
            update / updates,
        )
    policy.load_parameters(learner.flat_parameters(), done=0.0)
    zeros = np.zeros(contexts, np.float32)
    logits = policy.act(
        ActorInput(
            {"observation": np.eye(contexts, dtype=np.float32)},
            zeros,
            np.full(contexts, NO_ACTION),
            np.ones(contexts, np.bool_),
            np.zeros(contexts, np.int64),
            (),
            zeros,
            np.arange(contexts),
        )
    ).policy_outputs[BEHAVIOUR_LOGITS]
    probabilities = torch.from_numpy(logits).softmax(-1).diagonal()
    assert (probabilities > 0.9).all(), probabilities
    assert Categorical().entropies(torch.from_numpy(logits)).max() < 1.0
