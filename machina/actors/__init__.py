"""Actors: environments stepped in groups of slots, filling unrolls; where they run, and how many."""
