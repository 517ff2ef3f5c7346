"""Options of a command from a pydantic model, by tyro."""

from __future__ import annotations

import os
import sys
from typing import Any, TypeVar

from pydantic import BaseModel

# Set before pydantic words an error: its web address helps nobody on a terminal.
os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")

Model = TypeVar("Model", bound=BaseModel)


def parse(
    model: type[Model], arguments: list[str], program: str, default: Model | None = None, text: str | None = None
) -> Model:
    """Read options into ``model``; a typo is answered with the nearest name, exit code 2.

    Args:
        model: its fields are the options; nested sections lose their prefix.
        arguments: without the program's name.
        program: what the help calls the command.
        default: values of the options not given.
        text: what the help says first; None is the model's docstring.
    """
    import tyro

    keywords: dict[str, Any] = {} if default is None else {"default": default}
    options: Model = tyro.cli(
        model,
        args=arguments,
        prog=program,
        description=text or model.__doc__,
        config=(tyro.conf.OmitArgPrefixes,),
        **keywords,
    )
    return options


def leading_names(arguments: list[str], most: int) -> tuple[list[str], list[str]]:
    """Split off at most ``most`` leading arguments that are not options."""
    count = 0
    while count < min(most, len(arguments)) and not arguments[count].startswith("-"):
        count += 1
    return arguments[:count], arguments[count:]


def taken_option(arguments: list[str], name: str) -> tuple[str | None, list[str]]:
    """The value of ``--name VALUE`` or ``--name=VALUE``, and the other arguments."""
    for index, argument in enumerate(arguments):
        if argument == name and index + 1 < len(arguments):
            return arguments[index + 1], arguments[:index] + arguments[index + 2 :]
        if argument.startswith(f"{name}="):
            return argument.removeprefix(f"{name}="), arguments[:index] + arguments[index + 1 :]
    return None, arguments


def is_terminal() -> bool:
    """Whether a person looks at the output."""
    return sys.stdout.isatty()
