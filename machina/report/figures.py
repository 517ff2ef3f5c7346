"""What all pictures share: colours, style, tick labels, and how a png file is written."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machina.checkpoint.files import write_or_refuse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can distinguish too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelcolor": "#333333",
    "legend.frameon": False,
}


def compact(value: float) -> str:
    """``1.5M`` for ticks."""
    for divisor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= divisor:
            return f"{value / divisor:.3g}{unit}"
    return f"{value:.3g}"


def empty_figure(width: float, height: float) -> Figure:
    """A figure of its own, in inches; pyplot would keep global state and look for a display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def write_png(figure: Figure, path: Path) -> Path:
    """Render first, write in one step.

    Raises:
        RunFailedError: the disk is full or refuses.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    write_or_refuse(path, buffer.getvalue(), "plot")
    return path
