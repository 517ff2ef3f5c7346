"""A policy at play, with nothing learned: evaluations, matches, one player with its memory."""
