"""Algorithms, one folder each: configuration, learner, builder; `actor_critic` is what several have in common."""
