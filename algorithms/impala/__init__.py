"""IMPALA (arXiv 1802.01561): actor-critic with V-trace."""
