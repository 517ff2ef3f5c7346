"""Configuration of R2D3. Imports no torch."""

from __future__ import annotations

from machina.algorithms.r2d2.config import R2D2Config


class R2D3Config(R2D2Config):
    """R2D2 with demonstrations, which have a memory and priorities of their own (arXiv 1909.01387).

    Of the paper's shares 1/256 was best. A demonstration has no core state: a sequence begins with zeros, and the
    burn-in brings them up to date.
    """
