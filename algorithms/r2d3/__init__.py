"""R2D3: R2D2 with a share of demonstrations in every batch (arXiv 1909.01387)."""
