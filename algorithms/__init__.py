"""Algorithms, one folder each: config, networks, acting, learning, builder."""
