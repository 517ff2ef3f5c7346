"""Wires a run: the only place where environments, algorithms, runtime and reports meet."""
