"""What the JSON files of a run have in common: a typed model each, checked where the file is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, ValidationError

from machina.config import one_line
from machina.errors import UserError

Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""What is counted; no more than arrays of 64 bits can hold."""

Amount = Annotated[float, Field(ge=0, le=1e100)]

Real = Annotated[float, Field(ge=-1e100, le=1e100)]
"""A measured number, with room for sums of squares of many."""


ROW = PlainSerializer(lambda row: row._asdict(), return_type=dict[str, Any])
"""A named tuple is written with its names, not as a list; either is read."""


class SavedFile(BaseModel):
    """Base of the models of files: keys that are not theirs and numbers that are not finite are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


M = TypeVar("M", bound=BaseModel)


def read_typed(model: type[M], file: Path, remedy: str) -> M:
    """The content of a JSON file.

    Args:
        model: of the file.
        file: its path.
        remedy: what the user can do about a damaged one.

    Raises:
        FileNotFoundError: there is none.
        UserError: it can't be read, or is not what the model says; names file, key and remedy.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"'{file}' can't be read: {error.strerror}; {remedy}") from error
    return parsed(model, content, f"'{file}'", remedy)


def parsed_values(model: type[M], values: Any, where: str, remedy: str) -> M:
    """Values that were read from JSON, as ``parsed``."""
    return parsed(model, json.dumps(values), where, remedy)


def parsed(model: type[M], content: str | bytes, where: str, remedy: str) -> M:
    """JSON text as ``model``, without conversions: ``"7"`` and ``true`` are no numbers.

    Raises:
        UserError: it is not what the model says; names ``where``, the key and ``remedy``.
    """
    try:
        return model.model_validate_json(content, strict=True)
    except ValidationError as error:
        raise UserError(f"{one_line(error, f'{where} was edited or truncated')}; {remedy}") from error
