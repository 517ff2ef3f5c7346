"""How the value-based algorithms explore: epsilon-greedily, each slot with its own share of random actions."""
