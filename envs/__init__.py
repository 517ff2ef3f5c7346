"""Environments: Atari games, gymnasium ids, games for several agents, and small tasks with known answers."""
