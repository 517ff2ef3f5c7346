"""Turns batches into parameters: the network with its optimizer and statistics, and the learner ranks."""
