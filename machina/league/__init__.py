"""Self-play against past selves: the opponent pool, its snapshots, ratings and tables."""
