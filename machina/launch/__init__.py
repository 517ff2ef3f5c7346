"""Wires one training run: plan, place, training loop, and what is kept and shown of it."""
