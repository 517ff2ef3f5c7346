"""``machina inspect``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import Field
from tyro.conf import Positional

from machina.cli.options import parse
from machina.config import Config


class InspectOptions(Config):
    """List what a checkpoint holds: counters, tensors, sizes. Its checksums are verified."""

    path: Positional[Path] = Field(description="Run directory (its last good checkpoint) or a checkpoint folder.")


def run(arguments: list[str]) -> int:
    """Print the content of a checkpoint."""
    options = parse(InspectOptions, arguments, "machina inspect")

    from machina.checkpoint import inspect_checkpoint, load_from
    from machina.launch.saved_state import checkpoint_state

    checkpoint, warnings = load_from(options.path)
    checkpoint_state(checkpoint)
    for warning in warnings:
        print(f"machina: {warning}", file=sys.stderr)
    print(f"{checkpoint.path}: env step {checkpoint.step:,}, checksums good")
    for name, value in checkpoint.values.items():
        text = json.dumps(value)
        print(f"  {name}: {text if len(text) < 300 else text[:300] + ' …'}")
    rows = [("file", "tensor", "shape", "dtype", "bytes")] + [
        (row.file, row.name, str(list(row.shape)), row.dtype, f"{row.num_bytes:,}")
        for row in inspect_checkpoint(checkpoint)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for *cells, size in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False)), size.rjust(widths[-1]))
    return 0
