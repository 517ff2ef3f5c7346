"""PPO's parts for an environment."""

from __future__ import annotations

from machina.algorithms.ppo.config import PPOConfig
from machina.algorithms.ppo.learning import PPOLearner
from machina.interfaces import Ranks
from machina.nets.policy import SampledPolicy
from machina.nets.register import build_network
from machina.specs import EnvSpec


class PPOAlgorithm:
    """Implements ``machina.interfaces.Algorithm``."""

    def __init__(self, config: PPOConfig) -> None:
        self.config = config

    def make_policy(self, spec: EnvSpec, device: str, precision: str) -> SampledPolicy:
        """A behaviour policy; it acts sensibly once parameters are loaded."""
        return SampledPolicy(self.config.network, spec, device, precision)

    def make_learner(
        self, spec: EnvSpec, total_env_steps: int, device: str, precision: str, seed: int, ranks: Ranks
    ) -> PPOLearner:
        """A learner whose schedules end after ``total_env_steps``; one of ``ranks`` that share every batch."""
        return PPOLearner(self.config, spec, total_env_steps, device, precision, seed, ranks)

    def core_state_shapes(self, spec: EnvSpec) -> tuple[tuple[int, ...], ...]:
        """Shapes of the core state's arrays for one slot."""
        return build_network(spec, self.config.network, seed=0).core_state_shapes
