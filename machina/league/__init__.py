"""Self-play against past selves: the opponent pool, who plays which seat, matches and ratings."""
