"""Configuration of IMPALA with PopArt. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from machina.algorithms.impala.config import ImpalaConfig


class ImpalaPopArtConfig(ImpalaConfig):
    """IMPALA's options with PopArt on; with ``reward_clip: none`` it learns from raw rewards as well."""

    popart: bool = Field(default=True, description="Normalize the value targets of each task (arXiv 1809.04474).")
