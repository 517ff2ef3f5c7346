"""IMPALA with PopArt is IMPALA with another default: no part differs."""

from __future__ import annotations

from machina.algorithms.impala.builder import ImpalaAlgorithm
from machina.algorithms.impala_popart.config import ImpalaPopArtConfig


class ImpalaPopArtAlgorithm(ImpalaAlgorithm):
    """Implements ``machina.interfaces.Algorithm``."""

    def __init__(self, config: ImpalaPopArtConfig) -> None:
        super().__init__(config)
