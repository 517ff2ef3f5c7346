"""Parallelized Q-network: Q-learning without replay and without a target network (arXiv 2407.04811)."""
