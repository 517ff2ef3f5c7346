"""The options of epsilon-greedy exploration. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from machina.config import AlgorithmConfig


class ExplorationConfig(AlgorithmConfig):
    """The share of random actions, over the run and among slots."""

    epsilon: float = Field(default=1.0, ge=0, le=1, description="Share of random actions at the start.")
    epsilon_final: float = Field(default=0.001, ge=0, le=1, description="Share of random actions at the end.")
    exploration_share: float = Field(
        default=0.1, ge=0, le=1, description="Share of the run over which epsilon falls to its final value."
    )
    epsilon_spread: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="alpha: slot i of the N of a task explores with epsilon ** (1 + alpha i / (N - 1)), as in Ape-X "
        "(arXiv 1803.00933, where it is 7); 0: all alike.",
    )
