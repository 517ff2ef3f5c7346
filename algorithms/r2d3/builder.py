"""The parts of R2D3 for an environment."""

from __future__ import annotations

from machina.algorithms.r2d2.builder import R2D2Algorithm
from machina.algorithms.r2d3.config import R2D3Config
from machina.errors import UserError
from machina.interfaces import LearningFacts
from machina.specs import EnvSpec


class R2D3Algorithm(R2D2Algorithm):
    """R2D2 that insists on demonstrations."""

    def describe(self, spec: EnvSpec) -> LearningFacts:
        """See ``ReplayingAlgorithm``; raises UserError without demonstrations, too."""
        if self.config.demos is None:
            raise UserError("demos: r2d3 learns from demonstrations; use --demos FOLDER (machina record), or r2d2")
        return super().describe(spec)


def build(config: R2D3Config) -> R2D3Algorithm:
    """The algorithm with these options."""
    return R2D3Algorithm(config, "r2d3")
