"""PQN's update against the paper's formulas in float64 and numpy, for linear action values."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from unrolls import random_unroll

from machina.algorithms.exploration.acting import EPSILON, MAX_Q
from machina.algorithms.pqn.config import PQNConfig
from machina.algorithms.pqn.learning import PQNLearner
from machina.learner.minibatches import Share, minibatches
from machina.learner.sums import SINGLE_RANK
from machina.specs import ArraySpec, EnvSpec, discrete
from machina.types import Array, Unroll

Floats = npt.NDArray[np.float64]
T, B, FEATURES, ACTIONS = 6, 5, 4, 3
SPEC = EnvSpec(
    name="vector",
    tasks=("left", "right"),
    observation={"observation": ArraySpec(shape=(FEATURES,), dtype="float32")},
    action=discrete(ACTIONS),
)
LINEAR: dict[str, Any] = {"torso": "mlp", "hidden_sizes": [], "layer_norm": False}


def batch_of(seed: int) -> Unroll[Array]:
    random = np.random.default_rng(seed + 100)
    outputs = {
        MAX_Q: random.normal(size=(T + 1, B)).astype(np.float32),
        EPSILON: random.random((T + 1, B)).astype(np.float32),
    }
    weight = random.choice([0.5, 1.0, 2.0], B).astype(np.float32)
    return random_unroll(SPEC, T, B, seed)._replace(policy_outputs=outputs, weight=weight)


class RAdam:
    """Liu et al. 2020, algorithm 2, with PyTorch's constants."""

    def __init__(self) -> None:
        self.steps = 0
        self.first: dict[str, Floats] = {}
        self.second: dict[str, Floats] = {}

    def step(self, weights: dict[str, Floats], gradients: dict[str, Floats], rate: float) -> None:
        self.steps += 1
        t, longest = self.steps, 2 / (1 - 0.999) - 1
        length = longest - 2 * t * 0.999**t / (1 - 0.999**t)
        for name, g in gradients.items():
            self.first[name] = 0.9 * self.first.get(name, np.zeros_like(g)) + 0.1 * g
            self.second[name] = 0.999 * self.second.get(name, np.zeros_like(g)) + 0.001 * g**2
            step = self.first[name] / (1 - 0.9**t)
            if length > 5:
                known = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
                step = step * np.sqrt(known) * np.sqrt(1 - 0.999**t) / (np.sqrt(self.second[name]) + 1e-8)
            weights[name] = weights[name] - rate * step


class PQNByHand:
    """Algorithm 1 of arXiv 2407.04811."""

    def __init__(self, config: PQNConfig, learner: PQNLearner) -> None:
        self.config = config
        named = dict(learner.model.network.named_parameters())
        self.weights = {name: named[name].detach().double().numpy().copy() for name in ("q_head.weight", "q_head.bias")}
        self.optimizer = RAdam()
        self.updates = 0

    def q_values(self, observation: Array) -> Floats:
        seen = observation.astype(np.float64)
        return np.asarray(seen @ self.weights["q_head.weight"].T + self.weights["q_head.bias"])

    def update(self, batch: Unroll[Array], done: float) -> dict[str, float]:
        config = self.config
        observation = batch.observation["observation"]
        max_q = batch.policy_outputs[MAX_Q].astype(np.float64)
        max_q[T] = self.q_values(observation[T]).max(axis=-1)
        ends = batch.terminated | batch.truncated
        stops = batch.terminated | batch.life_lost
        rewards = batch.reward[1:].astype(np.float64)
        if config.reward_clip == "clip":
            rewards = np.clip(rewards, -1, 1)
        targets, counted = np.zeros((T, B)), ~ends[:-1]
        for b in range(B):
            for t in reversed(range(T)):
                ahead = max_q[t + 1, b]
                if t + 1 < T and not ends[t + 1, b]:
                    ahead = config.q_lambda * targets[t + 1, b] + (1 - config.q_lambda) * ahead
                targets[t, b] = rewards[t, b] + config.gamma * (not stops[t + 1, b]) * ahead
        rate = config.learning_rate
        if config.learning_rate_final is not None:
            rate += (config.learning_rate_final - rate) * min(1.0, done)
        sums = {"loss": 0.0, "q": 0.0, "norm": 0.0}
        share = Share(B, 0, B)
        parts = list(minibatches(share, T, config.epochs, config.minibatches, False, 0, self.updates))
        for part in parts:
            steps = [(int(i) // B, int(i) % B) for i in part]
            steps = [(t, b) for t, b in steps if counted[t, b]]
            gradients = {name: np.zeros_like(array) for name, array in self.weights.items()}
            for t, b in steps:
                action = batch.action[t, b]
                own = self.q_values(observation[t, b])[action]
                error = batch.weight[b] * (own - targets[t, b]) / max(1, len(steps))
                gradients["q_head.weight"][action] += error * observation[t, b]
                gradients["q_head.bias"][action] += error
                sums["loss"] += batch.weight[b] * 0.5 * (own - targets[t, b]) ** 2
                sums["q"] += own
            norm = float(np.sqrt(sum((g**2).sum() for g in gradients.values())))
            sums["norm"] += norm
            if not steps:
                continue
            cut = min(1.0, config.max_grad_norm / norm)
            self.optimizer.step(self.weights, {name: cut * g for name, g in gradients.items()}, rate)
        self.updates += 1
        errors = (targets - max_q[:-1])[counted]
        learned = config.epochs * counted.sum()
        return {
            "learner/q_loss": sums["loss"] / learned,
            "learner/q_value": sums["q"] / learned,
            "learner/grad_norm": sums["norm"] / len(parts),
            "learner/learning_rate": rate,
            "learner/target": float(targets[counted].mean()),
            "learner/explained_variance": float(1 - errors.var() / targets[counted].var()),
            "actor/epsilon": float(batch.policy_outputs[EPSILON][:-1][counted].mean()),
        }


def pair(**options: Any) -> tuple[PQNLearner, PQNByHand]:
    plain = {"network": LINEAR, "learning_rate": 0.05, "epochs": 1, "minibatches": 1, "reward_clip": "none"}
    config = PQNConfig.model_validate(plain | options)
    learner = PQNLearner(config, SPEC, "cpu", "float32", 0, SINGLE_RANK)
    learner.model.network.get_parameter("q_head.weight").data *= 50
    return learner, PQNByHand(config, learner)


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "epochs": {"epochs": 4},
    "minibatches": {"epochs": 3, "minibatches": 4},
    "minibatches of one step, which may not count": {"minibatches": T * B},
    "rewards clipped": {"reward_clip": "clip"},
    "a long gradient": {"max_grad_norm": 0.1},
    "another rate": {"learning_rate_final": 0.01},
    "one-step targets": {"q_lambda": 0.0},
    "whole returns": {"q_lambda": 1.0, "gamma": 0.5},
}


@pytest.mark.parametrize("name", [*CASES, "item by item"])
def test_updates_are_those_of_the_paper(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "item by item":  # as larger networks go through them
        monkeypatch.setattr("machina.learner.minibatches.CPU_CHUNK_BYTES", 1)
    learner, by_hand = pair(**CASES.get(name, {"epochs": 3, "minibatches": 2}))
    for seed, done in ((1, 0.0), (2, 0.4), (3, 1.2)):
        batch = batch_of(seed)
        shown = by_hand.update(batch, done)
        learned = learner.update(batch, done)
        assert not learned.skipped
        assert learned.passes == by_hand.config.epochs
        assert learned.metrics == pytest.approx(shown, rel=1e-3, abs=1e-5)
        for key, weights in by_hand.weights.items():
            parameter = learner.model.network.get_parameter(key).detach().numpy()
            np.testing.assert_allclose(parameter, weights, rtol=2e-4, atol=2e-6, err_msg=key)


def test_a_weight_counts_in_the_loss_and_a_slot_of_weight_zero_not_at_all() -> None:
    learner, other = (pair()[0] for _ in range(2))
    batch = batch_of(1)
    weight = np.ones(B, np.float32)
    weight[2] = 0
    assert not learner.update(batch._replace(weight=weight), 0.0).skipped
    spoilt = batch._replace(reward=batch.reward.copy(), weight=weight)
    spoilt.reward[:, 2] = 1e3
    other.update(spoilt, 0.0)
    assert torch.equal(learner.flat_parameters(), other.flat_parameters())


@pytest.mark.parametrize("where", ["reward", "observation"])
def test_what_is_not_finite_is_skipped(where: str) -> None:
    learner, _ = pair(epochs=2, minibatches=2)
    before = learner.flat_parameters()
    batch = batch_of(4)
    array = batch.reward if where == "reward" else batch.observation["observation"]
    array[3] = np.nan
    assert learner.update(batch, 0.0).skipped
    assert torch.equal(learner.flat_parameters(), before)
    assert not learner.update(batch_of(5), 0.0).skipped


@pytest.mark.parametrize("lstm_size", [0, 6])
def test_resume_is_bit_for_bit(lstm_size: int) -> None:
    options = {
        "network": {"hidden_sizes": [8], "lstm_size": lstm_size, "observation_filter": True},
        "epochs": 2,
        "minibatches": 2,
    }
    learner, resumed = (pair(**options)[0] if lstm_size == 0 else recurrent(options) for _ in range(2))
    core = tuple(np.full((B, lstm_size), 0.1, np.float32) for _ in range(2 if lstm_size else 0))
    for seed in (1, 2):
        learner.update(batch_of(seed)._replace(core_state=core), 0.1)
    resumed.load_state(learner.state())
    for seed in (3, 4):
        batch = batch_of(seed)._replace(core_state=core)
        assert learner.update(batch, 0.3) == resumed.update(batch, 0.3)
    assert torch.equal(learner.flat_parameters(), resumed.flat_parameters())


def test_a_state_from_before_the_first_update_can_be_continued() -> None:
    """A run that starts from another one's network, or was stopped that early, is saved so."""
    learner, resumed = (pair(minibatches=2)[0] for _ in range(2))
    resumed.load_state(learner.state())
    for each in (learner, resumed):
        assert not each.update(batch_of(1), 0.0).skipped
    assert torch.equal(learner.flat_parameters(), resumed.flat_parameters())


def recurrent(options: dict[str, Any]) -> PQNLearner:
    return PQNLearner(PQNConfig.model_validate(options), SPEC, "cpu", "float32", 0, SINGLE_RANK)


def test_a_recurrent_network_makes_its_own_highest_values() -> None:
    """They depend on a core state that only the learner can bring up to date; what the actor left is not read."""
    options = {"network": {"hidden_sizes": [8], "lstm_size": 6}, "epochs": 1, "minibatches": 1, "reward_clip": "none"}
    core = tuple(np.full((B, 6), 0.1, np.float32) for _ in range(2))
    batch = batch_of(1)._replace(core_state=core)
    other = batch._replace(policy_outputs={**batch.policy_outputs, MAX_Q: batch.policy_outputs[MAX_Q] + 100})
    one, two = recurrent(options), recurrent(options)
    assert one.update(batch, 0.0) == two.update(other, 0.0)
    assert torch.equal(one.flat_parameters(), two.flat_parameters())


def test_targets_that_are_all_alike_leave_nothing_to_explain() -> None:
    learner, _ = pair(q_lambda=0.0)
    batch = batch_of(1)
    alike = np.ones_like(batch.reward)
    shown = learner.update(batch._replace(reward=alike, life_lost=np.ones_like(batch.life_lost)), 0.0).metrics
    assert (shown["learner/explained_variance"], shown["learner/target"]) == (0.0, 1.0)
