"""Machina: reinforcement learning at scale with simple algorithms."""

__version__ = "0.1.0"
