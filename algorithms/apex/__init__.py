"""Ape-X: many actors with different exploration, which give new items their priorities (arXiv 1803.00933)."""
