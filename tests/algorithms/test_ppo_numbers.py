"""Two updates of PPO against arithmetic, with every option that enters them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from by_hand import (
    GAME,
    LENGTH,
    LINEAR,
    SLOTS,
    Adam,
    Agent,
    Floats,
    Slot,
    check_two_updates,
    cut,
    leave_the_start,
    log_softmax,
    norm_of,
    weights_after_two_updates,
)

from machina.algorithms.ppo.config import PPOConfig
from machina.algorithms.ppo.learning import PPOLearner
from machina.learner.minibatches import Share, minibatches
from machina.learner.sums import SINGLE_RANK
from machina.types import BEHAVIOUR_LOGITS, Array, Unroll

TOTAL = 400
"""Env steps after which the schedules end; a batch has 40."""

PLAIN: dict[str, Any] = {
    "epochs": 1,
    "minibatches": 1,
    "learning_rate": 0.02,
    "learning_rate_final": None,
    "adam_epsilon": 0.05,
    "gamma": 0.9,
    "gae_lambda": 0.8,
    "clip": 0.25,
    "clip_final": None,
    "value_cost": 0.7,
    "entropy_cost": 0.3,
    "max_grad_norm": 1000.0,
    "normalize_advantages": False,
    "team_spirit": 0.3,
}
"""No default among them, but for what a case is about."""
POPART: dict[str, Any] = {"popart": True, "popart_beta": 0.1, "popart_sigma_min": 0.9, "popart_sigma_max": 1.1}
FILTERED: dict[str, Any] = {"network": LINEAR | {"observation_filter": True}}
SCHEDULED: dict[str, Any] = {
    "learning_rate_final": 0.1,
    "clip_final": 1.5,
    "entropy_cost_final": 3.0,
    "team_spirit_final": 1.0,
}


class PPOByHand:
    """The update of arXiv 1707.06347 for linear heads."""

    def __init__(self, config: PPOConfig, learner: PPOLearner) -> None:
        self.config = config
        popart = (config.popart_beta, config.popart_sigma_min, config.popart_sigma_max) if config.popart else None
        self.agent = Agent(learner, popart, config.network.observation_filter)
        self.optimizer = Adam(config.adam_epsilon)
        self.updates, self.done = 0, 0.0

    def at(self, option: str) -> float:
        """The value of an option now."""
        start: float = getattr(self.config, option)
        end: float | None = getattr(self.config, f"{option}_final")
        return start if end is None else start + (end - start) * min(1.0, self.done)

    def rewards(self, batch: Unroll[Array]) -> Floats:
        tau = self.at("team_spirit")
        own, team, enemy = (each.astype(np.float64) for each in (batch.reward, batch.team_reward, batch.enemy_reward))
        rewards = (1 - tau) * own + tau * team - (enemy if self.config.zero_sum else 0)
        return np.maximum(-1, np.minimum(1, rewards)) if self.config.reward_clip in ("clip", "auto") else rewards

    def update(self, batch: Unroll[Array], done: float) -> tuple[dict[str, Floats], dict[str, float]]:
        """The gradients that were applied last, and what is shown."""
        self.done = done
        config, agent = self.config, self.agent
        _, values = agent.answer(batch)
        tasks = batch.task_id
        mu, sigma = (agent.mu[tasks], agent.sigma[tasks]) if config.popart else (np.zeros(SLOTS), np.ones(SLOTS))
        plain = values * sigma + mu
        rewards = self.rewards(batch)
        slots = [Slot(batch, b, rewards[:, b], plain[:, b], config.gamma) for b in range(SLOTS)]
        counted = np.stack([slot.counted[:-1] for slot in slots], axis=1)
        acted = counted & batch.on_turn[:-1]
        every = [(t, b) for t in range(LENGTH) for b in range(SLOTS)]
        advantages, targets = np.zeros((LENGTH, SLOTS)), np.zeros((LENGTH, SLOTS))
        for t, b in every:
            advantages[t, b] = slots[b].advantage(t, config.gae_lambda) / sigma[b]
            targets[t, b] = slots[b].lambda_return(t, config.gae_lambda)
        if config.normalize_advantages:
            advantages = (advantages - advantages[acted].mean()) / advantages[acted].std()
        errors = (targets - plain[:-1])[counted]
        shown = {"learner/explained_variance": 1 - errors.var() / targets[counted].var()}
        agent.move_popart(batch, targets, counted)
        mu, sigma = (agent.mu[tasks], agent.sigma[tasks]) if config.popart else (np.zeros(SLOTS), np.ones(SLOTS))
        targets, before = (targets - mu) / sigma, (plain[:-1] - mu) / sigma

        behaviour = log_softmax(batch.policy_outputs[BEHAVIOUR_LOGITS].astype(np.float64))
        sums: dict[str, float] = dict.fromkeys(("policy", "value", "entropy", "clipped", "norm"), 0.0)
        divergences: list[list[float]] = []
        parts = minibatches(Share(SLOTS, 0, SLOTS), LENGTH, config.epochs, config.minibatches, False, 0, self.updates)
        for part in parts:
            log_probs, values = agent.answer(batch)
            chosen = [every[item] for item in part]
            num_acted = sum(acted[each] for each in chosen)
            num_counted = sum(counted[each] for each in chosen)
            by_logits, by_values = np.zeros((LENGTH, SLOTS, 3)), np.zeros((LENGTH, SLOTS))
            divergences.append([])
            for t, b in chosen:
                if counted[t, b]:
                    by_values[t, b], loss = self.value_part(values[t, b], before[t, b], targets[t, b])
                    by_values[t, b] *= config.value_cost / num_counted
                    sums["value"] += loss
                if not acted[t, b]:
                    continue
                log_p, a = np.maximum(log_probs[t, b], -99), batch.action[t, b]
                p, ratio = np.exp(log_p), np.exp(log_p[a] - behaviour[t, b, a])
                entropy = -(p * log_p).sum()
                by_log_prob, loss = self.policy_part(ratio, advantages[t, b])
                by_logits[t, b] = by_log_prob * (np.eye(3)[a] - p)
                by_logits[t, b] += self.at("entropy_cost") * p * (log_p + entropy)
                by_logits[t, b] /= num_acted
                sums["policy"] += loss
                sums["entropy"] += entropy
                sums["clipped"] += abs(ratio - 1) > self.at("clip")
                divergences[-1].append(ratio - 1 - np.log(ratio))
            gradients = agent.gradients(batch, by_logits, by_values)
            applied = cut(gradients, config.max_grad_norm)
            sums["norm"] += norm_of(gradients)
            self.optimizer.step(agent.weights, applied, self.at("learning_rate"))
        last = [each for of_part in divergences[-config.minibatches :] for each in of_part]
        shown |= {
            "learner/policy_loss": sums["policy"] / acted.sum() / config.epochs,
            "learner/baseline_loss": config.value_cost * sums["value"] / counted.sum() / config.epochs,
            "learner/entropy": sums["entropy"] / acted.sum() / config.epochs,
            "learner/clipped_share": sums["clipped"] / acted.sum() / config.epochs,
            "learner/kl": float(np.mean(last)),
            "learner/grad_norm": sums["norm"] / len(divergences),
            "learner/epochs": config.epochs,
            "learner/learning_rate": self.at("learning_rate"),
            "learner/team_spirit": self.at("team_spirit"),
        }
        agent.move_filter(batch, counted)
        self.updates += 1
        return applied, shown

    def policy_part(self, ratio: float, advantage: float) -> tuple[float, float]:
        """d loss / d log pi, and the loss: nothing pushes a ratio further out than the clip."""
        clip = self.at("clip")
        if (ratio > 1 + clip and advantage > 0) or (ratio < 1 - clip and advantage < 0):
            return 0.0, -advantage * (1 + clip if ratio > 1 else 1 - clip)
        return -advantage * ratio, -advantage * ratio

    def value_part(self, value: float, before: float, target: float) -> tuple[float, float]:
        """d loss / d value, and the loss; with a clip the worse of two answers counts."""
        clip = self.config.value_clip
        if clip is not None and abs(value - before) > clip:
            kept = before + clip * np.sign(value - before)
            if abs(kept - target) > abs(value - target):
                return 0.0, 0.5 * (kept - target) ** 2
        return value - target, 0.5 * (value - target) ** 2


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "a long gradient": {"max_grad_norm": 0.3},
    "rewards clipped": {"reward_clip": "clip"},
    "rewards clipped by custom": {"reward_clip": "auto"},
    "zero sum": {"zero_sum": True},
    "advantages normalized": {"normalize_advantages": True},
    "epochs": {"epochs": 3},
    "minibatches": {"epochs": 2, "minibatches": 3},
    "value clip": {"epochs": 3, "value_clip": 0.04},
    "schedules": SCHEDULED,
    "popart": POPART,
    "filter": FILTERED,
    "all at once": {
        "epochs": 2,
        "minibatches": 2,
        "max_grad_norm": 0.3,
        "reward_clip": "clip",
        "zero_sum": True,
        "normalize_advantages": True,
        "value_clip": 0.04,
        **SCHEDULED,
        **POPART,
        **FILTERED,
    },
}


def pair(**options: Any) -> tuple[PPOLearner, PPOByHand]:
    config = PPOConfig.model_validate({"network": LINEAR, **PLAIN, **options})
    spec = GAME.model_copy(update={"clip_rewards": config.reward_clip == "auto"})
    learner = PPOLearner(config, spec, "cpu", "float32", 0, SINGLE_RANK)
    leave_the_start(learner)
    return learner, PPOByHand(config, learner)


@pytest.mark.parametrize("name", [*CASES, "slot by slot"])
def test_two_updates_are_those_of_the_paper(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "slot by slot":  # as larger networks go through them
        monkeypatch.setattr("machina.learner.minibatches.CPU_CHUNK_BYTES", 1)
    learner, by_hand = pair(**CASES.get(name, CASES["all at once"]))
    check_two_updates(learner, by_hand)


OTHERS: dict[str, Any] = {
    "epochs": 2,
    "minibatches": 2,
    "learning_rate": 0.03,
    "adam_epsilon": 1e-5,
    "gamma": 0.8,
    "gae_lambda": 0.95,
    "clip": 0.1,
    "value_cost": 1.0,
    "entropy_cost": 0.01,
    "max_grad_norm": 0.3,
    "normalize_advantages": True,
    "team_spirit": 0.0,
    "zero_sum": True,
    "reward_clip": "clip",
} | SCHEDULED


@pytest.mark.parametrize("option", [*OTHERS, "value_clip"])
def test_the_batch_tells_every_option_from_another_value(option: str) -> None:
    """Else the comparison above would pass without it."""
    base: dict[str, Any] = {} if option != "value_clip" else CASES["epochs"]
    other = {option: OTHERS[option]} if option in OTHERS else CASES["value clip"]
    weights = [weights_after_two_updates(pair(**options)[1]) for options in (base, base | other)]
    assert np.abs(weights[0] - weights[1]).max() > 1e-3
