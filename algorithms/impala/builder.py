"""IMPALA's parts for an environment."""

from __future__ import annotations

import functools

from machina.algorithms.actor_critic.algorithm import ActorCriticAlgorithm
from machina.algorithms.impala.config import ImpalaConfig
from machina.algorithms.impala.learning import ImpalaLearner


def build(config: ImpalaConfig) -> ActorCriticAlgorithm:
    """The algorithm with these options."""
    return ActorCriticAlgorithm(config, functools.partial(ImpalaLearner, config))
