"""Learning action values from a replay: what DQN, Rainbow, Ape-X and R2D2 have in common."""
