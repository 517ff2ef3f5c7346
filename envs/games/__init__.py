"""Games for several agents, shipped ones and those of PettingZoo."""
