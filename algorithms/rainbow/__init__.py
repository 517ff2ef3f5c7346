"""Rainbow: DQN with six extensions (arXiv 1710.02298)."""
