"""Arithmetic of an actor-critic update in float64 and numpy, slot by slot; shares nothing with the product.

The network is linear (no hidden layer), so that every gradient can be written down: with d loss / d logits = g[t, b],
the gradient of the policy head's weights is the sum over all steps of g[t, b] x[t, b]'.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pytest
import torch

from machina.specs import ArraySpec, EnvSpec, Seat, discrete
from machina.types import BEHAVIOUR_LOGITS, Array, Unroll

Floats = npt.NDArray[np.float64]

ACTIONS, FEATURES, LENGTH, SLOTS = 3, 4, 8, 5

GAME = EnvSpec(
    name="game",
    tasks=("white", "black"),
    seats=(Seat(agent="white", role=0, team=0), Seat(agent="black", role=1, team=1)),
    observation={
        "observation": ArraySpec(shape=(FEATURES,), dtype="float32"),
        "action_mask": ArraySpec(shape=(ACTIONS,), dtype="bool"),
    },
    action=discrete(ACTIONS),
)
LINEAR: dict[str, Any] = {"torso": "mlp", "hidden_sizes": []}


def flags(slots: list[str]) -> dict[str, Array]:
    """A letter per entry: ``.`` on turn, ``-`` off turn, ``T`` terminated, ``C`` truncated, ``l`` a life lost on turn,
    ``x`` a life lost off turn, ``F`` another player's; a word per slot."""
    letters = np.array([list(each) for each in slots]).T
    return {
        "terminated": letters == "T",
        "truncated": letters == "C",
        "life_lost": np.isin(letters, ["l", "x"]),
        "on_turn": ~np.isin(letters, ["-", "x"]),
        "foreign": letters == "F",
    }


def game_batch(seed: int) -> Unroll[Array]:
    """Off-policy, with both kinds of end, reset steps, lost lives, waiting, another player's game, and masks."""
    random = np.random.default_rng(seed)
    shape = (LENGTH + 1, SLOTS)
    told = flags(["..--.C..-", "-.-.T-.--", "..l.x-..C", "FFFTF....", ".-T..-.-."])
    action = random.integers(0, ACTIONS, shape)
    allowed = random.random((*shape, ACTIONS)) < 0.7
    np.put_along_axis(allowed, action[..., None], True, axis=-1)
    allowed &= told["on_turn"][..., None]
    behaviour = np.where(allowed, random.normal(scale=0.9, size=(*shape, ACTIONS)), -1e9)
    observation = random.normal(size=(*shape, FEATURES)) * np.array([1.0, 2.0, 0.5, 3.0]) + np.array([0, 1, 0, -1])
    first = np.array([True, False, False, True, False])
    return Unroll(
        observation={"observation": observation.astype(np.float32), "action_mask": allowed},
        reward=random.normal(scale=1.5, size=shape).astype(np.float32),
        team_reward=random.normal(scale=1.5, size=shape).astype(np.float32),
        enemy_reward=random.normal(scale=1.5, size=shape).astype(np.float32),
        action=action,
        policy_outputs={BEHAVIOUR_LOGITS: behaviour.astype(np.float32)},
        core_state=(),
        previous_action=np.full(SLOTS, -1),
        first=first,
        task_id=np.array([0, 1, 0, 1, 1]),
        slot=np.arange(SLOTS),
        policy_version=np.zeros(SLOTS, np.int64),
        start=np.zeros(SLOTS, np.int64),
        weight=np.ones(SLOTS, np.float32),
        **told,
    )


def log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


class Slot:
    """One slot's T steps, as an agent lives them: own turn after own turn."""

    def __init__(self, batch: Unroll[Array], b: int, reward: Floats, values: Floats, gamma: float) -> None:
        self.gamma = gamma
        self.values = values
        self.reward = reward
        self.on_turn = batch.on_turn[:, b]
        self.done = (batch.terminated | batch.truncated)[:, b]
        self.stops = (batch.terminated | batch.life_lost)[:, b]
        self.counted = ~self.done & ~batch.foreign[:, b]

    def until_station(self, t: int) -> tuple[int, float, float]:
        """What comes after step ``t`` up to the next own turn, end or cut: where that is, the rewards up to there, and
        whether the return continues (1 or 0)."""
        k, gained, on = t + 1, float(self.reward[t + 1]), float(not self.stops[t + 1])
        while k < LENGTH and not self.done[k] and not self.on_turn[k]:
            k += 1
            gained += on * float(self.reward[k])
            on *= float(not self.stops[k])
        return k, gained, on

    def vtrace(self, t: int, rhos: Floats, clips: tuple[float, float, float]) -> float:
        """The target of entry ``t``, with clips (rho, c, lambda)."""
        if t == LENGTH or not self.counted[t]:
            return float(self.values[t])
        k, gained, on = self.until_station(t)
        rest = self.vtrace(k, rhos, clips)
        if not self.on_turn[t]:
            return gained / self.gamma + on * rest
        rho_clip, c_clip, lambda_ = clips
        delta = min(rho_clip, rhos[t]) * (gained + self.gamma * on * self.values[k] - self.values[t])
        trace = self.gamma * on * lambda_ * min(c_clip, rhos[t])
        return float(self.values[t] + delta + trace * (rest - self.values[k]))

    def advantage(self, t: int, lambda_: float) -> float:
        """GAE of an own turn; of an entry off turn that of the next own one, as far as the return continues."""
        if t == LENGTH or not self.counted[t]:
            return 0.0
        k, gained, on = self.until_station(t)
        rest = self.advantage(k, lambda_)
        if not self.on_turn[t]:
            return on * rest
        delta = gained + self.gamma * on * self.values[k] - self.values[t]
        return float(delta + self.gamma * lambda_ * on * rest)

    def lambda_return(self, t: int, lambda_: float) -> float:
        """What the value of entry ``t`` is to be."""
        if not self.counted[t]:
            return float(self.values[t])
        if self.on_turn[t]:
            return float(self.values[t]) + self.advantage(t, lambda_)
        k, gained, on = self.until_station(t)
        return gained / self.gamma + on * float(self.values[k]) + self.advantage(t, lambda_)


class Agent:
    """Linear heads, PopArt's and the filter's statistics, with their updates written out.

    Args:
        learner: whose parameters and statistics are copied.
        popart: beta and the two bounds, None without.
        filtered: whether observations are filtered.
    """

    def __init__(self, learner: Any, popart: tuple[float, float, float] | None, filtered: bool) -> None:
        named = {name: each.detach().double().numpy().copy() for name, each in learner.model.network.named_parameters()}
        self.weights: dict[str, Floats] = {
            name: named[name]
            for name in ("policy_head.weight", "policy_head.bias", "value_head.weight", "value_head.bias")
        }
        self.popart, self.filtered = popart, filtered
        self.mu, self.nu = np.zeros(2), np.ones(2)
        if popart is not None:
            self.mu, self.nu = learner.model.popart.mu.numpy().copy(), learner.model.popart.nu.numpy().copy()
        self.seen = np.zeros((0, FEATURES))
        self.mean, self.scale = np.zeros(FEATURES), np.ones(FEATURES)

    @property
    def sigma(self) -> Floats:
        if self.popart is None:
            return np.ones(2)
        return np.asarray(np.clip(np.sqrt(np.maximum(self.nu - self.mu**2, 0)), self.popart[1], self.popart[2]))

    def read(self, batch: Unroll[Array]) -> Floats:
        """Features ``[T + 1, B, F]``."""
        seen = batch.observation["observation"].astype(np.float64)
        return np.clip((seen - self.mean) * self.scale, -5, 5) if self.filtered else seen

    def answer(self, batch: Unroll[Array]) -> tuple[Floats, Floats]:
        """Log-probabilities ``[T + 1, B, A]`` of the actions that are allowed, and normalized own values."""
        features = self.read(batch)
        logits = features @ self.weights["policy_head.weight"].T + self.weights["policy_head.bias"]
        values = features @ self.weights["value_head.weight"].T + self.weights["value_head.bias"]
        logits = np.where(batch.observation["action_mask"], logits, -1e9)
        return log_softmax(logits), values[:, np.arange(SLOTS), batch.task_id]

    def gradients(self, batch: Unroll[Array], by_logits: Floats, by_values: Floats) -> dict[str, Floats]:
        """Those of all weights, from ``[T, B, A]`` and ``[T, B]``."""
        features = self.read(batch)[:-1]
        own = np.zeros((*by_values.shape, 2))
        own[:, np.arange(SLOTS), batch.task_id] = by_values
        return {
            "policy_head.weight": np.einsum("tba,tbf->af", by_logits, features),
            "policy_head.bias": by_logits.sum(axis=(0, 1)),
            "value_head.weight": np.einsum("tbk,tbf->kf", own, features),
            "value_head.bias": own.sum(axis=(0, 1)),
        }

    def move_popart(self, batch: Unroll[Array], targets: Floats, counted: Array) -> None:
        """Per unroll of a task, towards the mean and mean square of its targets ``[T, B]``; outputs stay."""
        if self.popart is None:
            return
        old_mu, old_sigma = self.mu.copy(), self.sigma
        for task in range(2):
            unrolls = [targets[counted[:, b], b] for b in range(SLOTS) if batch.task_id[b] == task]
            unrolls = [each for each in unrolls if len(each)]
            keep = (1 - self.popart[0]) ** len(unrolls)
            if unrolls:
                self.mu[task] = keep * self.mu[task] + (1 - keep) * np.mean([each.mean() for each in unrolls])
                self.nu[task] = keep * self.nu[task] + (1 - keep) * np.mean([(each**2).mean() for each in unrolls])
        weight, bias = self.weights["value_head.weight"], self.weights["value_head.bias"]
        weight *= (old_sigma / self.sigma)[:, None]
        bias[:] = (old_sigma * bias + old_mu - self.mu) / self.sigma

    def move_filter(self, batch: Unroll[Array], counted: Array) -> None:
        """Mean and deviation of all that was ever counted."""
        if not self.filtered:
            return
        self.seen = np.concatenate([self.seen, batch.observation["observation"][:-1][counted].astype(np.float64)])
        self.mean, self.scale = self.seen.mean(axis=0), 1 / np.sqrt(self.seen.var(axis=0) + 1e-8)


class Adam:
    """Kingma and Ba, algorithm 1, with PyTorch's constants."""

    def __init__(self, epsilon: float) -> None:
        self.epsilon, self.steps = epsilon, 0
        self.first: dict[str, Floats] = {}
        self.second: dict[str, Floats] = {}

    def step(self, weights: dict[str, Floats], gradients: dict[str, Floats], rate: float) -> None:
        self.steps += 1
        for name, g in gradients.items():
            self.first[name] = 0.9 * self.first.get(name, np.zeros_like(g)) + 0.1 * g
            self.second[name] = 0.999 * self.second.get(name, np.zeros_like(g)) + 0.001 * g**2
            mean = self.first[name] / (1 - 0.9**self.steps)
            root = np.sqrt(self.second[name] / (1 - 0.999**self.steps))
            weights[name] -= rate * mean / (root + self.epsilon)


class RMSProp:
    """TensorFlow 1's: epsilon inside the root, squares start at 1."""

    def __init__(self, decay: float, epsilon: float, momentum: float) -> None:
        self.decay, self.epsilon, self.momentum = decay, epsilon, momentum
        self.squares: dict[str, Floats] = {}
        self.moments: dict[str, Floats] = {}

    def step(self, weights: dict[str, Floats], gradients: dict[str, Floats], rate: float) -> None:
        for name, g in gradients.items():
            self.squares[name] = self.decay * self.squares.get(name, np.ones_like(g)) + (1 - self.decay) * g**2
            step = rate * g / np.sqrt(self.squares[name] + self.epsilon)
            self.moments[name] = self.momentum * self.moments.get(name, np.zeros_like(g)) + step
            weights[name] -= self.moments[name]


def norm_of(gradients: dict[str, Floats]) -> float:
    return float(np.sqrt(sum((g**2).sum() for g in gradients.values())))


def cut(gradients: dict[str, Floats], most: float) -> dict[str, Floats]:
    """All together at a norm of ``most``, if they are longer."""
    share = min(1.0, most / norm_of(gradients))
    return {name: g * share for name, g in gradients.items()}


class ByHand(Protocol):
    """An algorithm's update, written out."""

    agent: Agent

    def update(self, batch: Unroll[Array], done: float) -> tuple[dict[str, Floats], dict[str, float]]:
        """The gradients that were applied last, and what is shown."""
        ...


BATCHES = ((1, 0.0), (2, 0.4))
"""Seeds of the two updates' batches, and the fraction of the run that is done."""


def leave_the_start(learner: Any) -> None:
    """The start has nearly uniform policies, and PopArt's statistics of nothing."""
    learner.model.network.get_parameter("policy_head.weight").data *= 60
    if learner.model.popart is not None:
        learner.model.popart.mu += 0.5
        learner.model.popart.nu *= 1.4


def check_two_updates(learner: Any, by_hand: ByHand) -> None:
    """What two updates show and change is what ``by_hand`` computes."""
    for seed, done in BATCHES:
        batch = game_batch(seed)
        applied, shown = by_hand.update(batch, done)
        metrics, skipped, passes = learner.update(batch, done)[:3]
        assert not skipped
        assert passes == getattr(learner.config, "epochs", 1)
        assert {key: metrics[key] for key in shown} == pytest.approx(shown, rel=1e-3, abs=1e-5)
        check_agent(learner, by_hand.agent, applied)


def weights_after_two_updates(by_hand: ByHand) -> Floats:
    """All in a row."""
    for seed, done in BATCHES:
        by_hand.update(game_batch(seed), done)
    return np.concatenate([each.ravel() for each in by_hand.agent.weights.values()])


def check_agent(learner: Any, agent: Agent, gradients: dict[str, Floats]) -> None:
    """Parameters, the last step's gradients, PopArt and filter are those of ``agent``."""
    named = dict(learner.model.network.named_parameters())
    for name, weights in agent.weights.items():
        close(named[name].grad, gradients[name], f"gradient of {name}")
        close(named[name], weights, name)
    if agent.popart is not None:
        close(learner.model.popart.mu, agent.mu, "mu")
        close(learner.model.popart.sigma, agent.sigma, "sigma")
    if agent.filtered:
        close(named["observation_filter.mean.0"], agent.mean, "mean")
        close(named["observation_filter.scale.0"], agent.scale, "scale")


def close(got: torch.Tensor | None, expected: Floats, what: str) -> None:
    assert got is not None, what
    np.testing.assert_allclose(got.detach().double().numpy(), expected, rtol=2e-4, atol=2e-6, err_msg=what)
