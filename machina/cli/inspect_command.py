"""``machina inspect``."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, Field
from tyro.conf import Positional

from machina.cli.options import parse


class InspectOptions(BaseModel):
    """List what a checkpoint holds: counters, tensors, sizes. Its checksums are verified."""

    path: Positional[Path] = Field(description="Run directory (its last good checkpoint) or a checkpoint folder.")


def run(arguments: list[str]) -> int:
    """Print the content of a checkpoint."""
    options = parse(InspectOptions, arguments, "machina inspect")

    from rich.console import Console
    from rich.table import Table

    from machina.checkpoint import inspect_checkpoint, load_from

    console = Console()
    checkpoint, warnings = load_from(options.path)
    for warning in warnings:
        console.print(warning, style="yellow")
    console.print(f"{checkpoint.path}: env step {checkpoint.step:,}, checksums good")
    for name, value in checkpoint.values.items():
        text = json.dumps(value)
        console.print(f"  {name}: {text if len(text) < 300 else text[:300] + ' …'}", highlight=False, soft_wrap=True)
    table = Table(box=None)
    for column in ("file", "tensor", "shape", "dtype", "bytes"):
        table.add_column(column, justify="right" if column == "bytes" else "left")
    for row in inspect_checkpoint(checkpoint):
        table.add_row(row.file, row.name, str(list(row.shape)), row.dtype, f"{row.num_bytes:,}")
    console.print(table)
    return 0
