"""What the actor-critic algorithms, IMPALA and PPO, have in common."""
