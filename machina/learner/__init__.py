"""Turns batches into parameters: the network with its optimiser and statistics, and the learner ranks."""
