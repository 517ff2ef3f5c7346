"""Two updates of IMPALA against arithmetic, with every option that enters them."""

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
    RMSProp,
    Slot,
    check_two_updates,
    cut,
    leave_the_start,
    log_softmax,
    norm_of,
    weights_after_two_updates,
)

from machina.algorithms.impala.config import ImpalaConfig
from machina.algorithms.impala.learning import ImpalaLearner
from machina.learner.sums import SINGLE_RANK
from machina.types import BEHAVIOUR_LOGITS, Array, Unroll

TOTAL = 400
"""Env steps after which the learning rate is 0; a batch has 40."""

PLAIN: dict[str, Any] = {
    "learning_rate": 0.02,
    "gamma": 0.9,
    "entropy_cost": 0.3,
    "baseline_cost": 0.7,
    "rho_clip": 1.3,
    "c_clip": 0.8,
    "pg_rho_clip": 1.7,
    "vtrace_lambda": 0.85,
    "reward_clip": "none",
    "rmsprop_decay": 0.8,
    "rmsprop_epsilon": 0.3,
    "rmsprop_momentum": 0.4,
    "max_grad_norm": 1000.0,
}
"""No default among them."""
POPART: dict[str, Any] = {"popart": True, "popart_beta": 0.1, "popart_sigma_min": 0.9, "popart_sigma_max": 1.1}
FILTERED: dict[str, Any] = {"network": LINEAR | {"observation_filter": True}}


class ImpalaByHand:
    """The update of arXiv 1802.01561 for linear heads."""

    def __init__(self, config: ImpalaConfig, learner: ImpalaLearner) -> None:
        self.config = config
        popart = (config.popart_beta, config.popart_sigma_min, config.popart_sigma_max) if config.popart else None
        self.agent = Agent(learner, popart, config.network.observation_filter)
        self.optimizer: Adam | RMSProp = Adam(config.adam_epsilon)
        if config.optimizer == "rmsprop":
            self.optimizer = RMSProp(config.rmsprop_decay, config.rmsprop_epsilon, config.rmsprop_momentum)

    def update(self, batch: Unroll[Array], done: float) -> tuple[dict[str, Floats], dict[str, float]]:
        """The gradients that were applied, and what is shown."""
        config, agent = self.config, self.agent
        log_probs, values = agent.answer(batch)
        behaviour = log_softmax(batch.policy_outputs[BEHAVIOUR_LOGITS].astype(np.float64))
        by_logits, by_values = np.zeros((LENGTH, SLOTS, 3)), np.zeros((LENGTH, SLOTS))
        targets, counted = np.zeros((LENGTH, SLOTS)), np.zeros((LENGTH, SLOTS), bool)
        shown: dict[str, list[float]] = {key: [] for key in ("policy", "entropy", "rho", "target", "error")}
        value_loss = 0.0
        for b in range(SLOTS):
            mu, sigma = agent.mu[batch.task_id[b]], agent.sigma[batch.task_id[b]]
            if agent.popart is None:
                mu, sigma = 0.0, 1.0
            reward = batch.reward[:, b].astype(np.float64)
            if config.reward_clip in ("clip", "auto"):
                reward = np.maximum(-1, np.minimum(1, reward))
            chosen = np.arange(LENGTH + 1), b, batch.action[:, b]
            rhos = np.exp(log_probs[chosen] - behaviour[chosen])
            slot = Slot(batch, b, reward, sigma * values[:, b] + mu, config.gamma)
            for t in range(LENGTH):
                clips = (config.rho_clip, config.c_clip, config.vtrace_lambda)
                targets[t, b] = slot.vtrace(t, rhos, clips)
                counted[t, b] = slot.counted[t]
                if not slot.counted[t]:
                    continue
                error = (targets[t, b] - mu) / sigma - values[t, b]
                by_values[t, b] = -config.baseline_cost * error
                value_loss += 0.5 * error**2
                if not slot.on_turn[t]:
                    continue
                k, gained, on = slot.until_station(t)
                follows = gained + config.gamma * on * slot.vtrace(k, rhos, clips)
                advantage = min(config.pg_rho_clip, rhos[t]) * (follows - slot.values[t]) / sigma
                p, log_p = np.exp(log_probs[t, b]), log_probs[t, b]
                entropy = -(p * np.maximum(log_p, -99)).sum()
                chose = np.eye(3)[batch.action[t, b]]
                by_logits[t, b] = -advantage * (chose - p)  # of -A log p
                by_logits[t, b] += config.entropy_cost * p * (np.maximum(log_p, -99) + entropy)  # of -H
                shown["policy"].append(-advantage * log_p[batch.action[t, b]])
                shown["entropy"].append(entropy)
                shown["rho"].append(rhos[t])
                shown["target"].append((targets[t, b] - mu) / sigma)
                shown["error"].append(error)
        gradients = agent.gradients(batch, by_logits, by_values)
        applied = cut(gradients, config.max_grad_norm)
        rate = config.learning_rate * max(0, 1 - done)
        self.optimizer.step(agent.weights, applied, rate)
        agent.move_popart(batch, targets, counted)
        agent.move_filter(batch, counted)
        policy, entropies, rho = sum(shown["policy"]), shown["entropy"], np.array(shown["rho"])
        return applied, {
            "learner/total_loss": policy + config.baseline_cost * value_loss - config.entropy_cost * sum(entropies),
            "learner/policy_loss": policy,
            "learner/baseline_loss": config.baseline_cost * value_loss,
            "learner/entropy": float(np.mean(entropies)),
            "learner/rho": float(rho.mean()),
            "learner/rho_clipped_share": float((rho > config.rho_clip).mean()),
            "learner/explained_variance": float(1 - np.var(shown["error"]) / np.var(shown["target"])),
            "learner/grad_norm": norm_of(gradients),
            "learner/learning_rate": rate,
        }


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "adam": {"optimizer": "adam", "adam_epsilon": 0.05},
    "no momentum": {"rmsprop_momentum": 0.0},
    "a long gradient": {"max_grad_norm": 2.0},
    "rewards clipped": {"reward_clip": "clip"},
    "rewards clipped by custom": {"reward_clip": "auto"},
    "popart": POPART,
    "filter": FILTERED,
    "all at once": {"max_grad_norm": 2.0, "reward_clip": "clip", **POPART, **FILTERED},
}


def pair(**options: Any) -> tuple[ImpalaLearner, ImpalaByHand]:
    config = ImpalaConfig.model_validate({"network": LINEAR, **PLAIN, **options})
    spec = GAME.model_copy(update={"clip_rewards": config.reward_clip == "auto"})
    learner = ImpalaLearner(config, spec, "cpu", "float32", 0, SINGLE_RANK)
    leave_the_start(learner)
    return learner, ImpalaByHand(config, learner)


@pytest.mark.parametrize("name", [*CASES, "slot by slot"])
def test_two_updates_are_those_of_the_paper(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "slot by slot":  # as larger networks go through them
        monkeypatch.setattr("machina.algorithms.impala.learning.CPU_CHUNK_ENTRIES", 1)
    learner, by_hand = pair(**CASES.get(name, CASES["all at once"]))
    check_two_updates(learner, by_hand)


OTHERS: dict[str, Any] = {
    "learning_rate": 0.03,
    "gamma": 0.8,
    "entropy_cost": 0.2,
    "baseline_cost": 0.5,
    "rho_clip": 1.0,
    "c_clip": 1.0,
    "pg_rho_clip": 1.0,
    "vtrace_lambda": 1.0,
    "reward_clip": "clip",
    "rmsprop_decay": 0.99,
    "rmsprop_epsilon": 0.01,
    "rmsprop_momentum": 0.0,
    "max_grad_norm": 2.0,
    "optimizer": "adam",
}


@pytest.mark.parametrize("option", OTHERS)
def test_the_batch_tells_every_option_from_another_value(option: str) -> None:
    """Else the comparison above would pass without it."""
    weights = [weights_after_two_updates(pair(**options)[1]) for options in ({}, {option: OTHERS[option]})]
    assert np.abs(weights[0] - weights[1]).max() > 1e-3
