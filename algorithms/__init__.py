"""Algorithms, one folder each: the same files in every one (config, learning, builder)."""
