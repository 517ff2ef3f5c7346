"""Configuration as YAML text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from machina.config import Config
from machina.errors import UserError, in_one_line


class _Loader(yaml.SafeLoader):
    """Refuses a key that appears twice, of which YAML's loaders keep the last silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        scalars = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for index, key in enumerate(scalars):
            if any(key.value == other.value for other in scalars[:index]):
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value!r} appears twice", problem_mark=key.start_mark
                )
        return super().construct_mapping(node, deep)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises:
        UserError: the file is absent, is not YAML, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"configuration {str(path)!r} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"configuration {str(path)!r} is not a text file") from error
    try:
        content = yaml.load(text, _Loader)
    except Exception as error:  # it also lets through errors of int(), of dates, of its recursion
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or in_one_line(error)
        if mark is not None:
            reason = f"line {mark.line + 1}, column {mark.column + 1}: {reason}"
        raise UserError(f"configuration {str(path)!r} is not valid YAML: {reason}") from error
    if not isinstance(content, dict):
        raise UserError(f"configuration {str(path)!r} must be a mapping of sections, got {type(content).__name__}")
    return content


def to_yaml(config: Config) -> str:
    """The whole tree as YAML text, in the order of the fields."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
