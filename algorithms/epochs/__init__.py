"""Epochs of minibatches of a synchronous batch: what PPO and PQN have in common."""
