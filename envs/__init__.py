"""Environments: Atari games, any gymnasium id, and small tasks with known answers."""
