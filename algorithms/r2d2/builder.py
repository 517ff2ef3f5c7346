"""The parts of R2D2 for an environment."""

from __future__ import annotations

from machina.algorithms.r2d2.config import R2D2Config
from machina.algorithms.r2d2.initial_priorities import SequenceErrors
from machina.algorithms.r2d2.learning import R2D2Learner
from machina.algorithms.replaying.algorithm import ReplayingAlgorithm
from machina.buffers.replay_shard import InitialErrors
from machina.interfaces import Learner, Ranks
from machina.specs import EnvSpec


class R2D2Algorithm(ReplayingAlgorithm[R2D2Config]):
    """Sequences instead of transitions."""

    def make_learner(self, spec: EnvSpec, device: str, precision: str, seed: int, ranks: Ranks) -> Learner:
        """One of ``ranks`` that share every batch."""
        return R2D2Learner(self.config, spec, device, precision, seed, ranks)

    def _errors(self, spec: EnvSpec) -> InitialErrors:
        return SequenceErrors(self.config, self.config.clips_rewards(spec)).of


def build(config: R2D2Config) -> R2D2Algorithm:
    """The algorithm with these options."""
    return R2D2Algorithm(config, "r2d2")
