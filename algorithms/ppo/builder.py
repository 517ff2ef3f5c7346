"""PPO's parts for an environment."""

from __future__ import annotations

import functools

from machina.algorithms.actor_critic.algorithm import ActorCriticAlgorithm
from machina.algorithms.ppo.config import PPOConfig
from machina.algorithms.ppo.learning import PPOLearner


def build(config: PPOConfig) -> ActorCriticAlgorithm:
    """The algorithm with these options."""
    return ActorCriticAlgorithm(config, functools.partial(PPOLearner, config))
