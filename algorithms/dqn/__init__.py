"""Deep Q-networks (Nature 518, 529), with every extension of Rainbow as an option."""
