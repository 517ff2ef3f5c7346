"""IMPALA with PopArt (arXiv 1809.04474): one agent for tasks of different reward scale."""
