"""Options of a command from a pydantic model, by tyro."""

from __future__ import annotations

import contextlib
import io
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from machina.cli.other_names import OTHER_NAMES
from machina.config import one_line, option_paths
from machina.errors import UserError, nearest

Model = TypeVar("Model", bound=BaseModel)


def parse(
    model: type[Model], arguments: list[str], program: str, default: Model | None = None, text: str | None = None
) -> Model:
    """Read options into ``model``.

    Args:
        model: its fields are the options; nested sections lose their prefix.
        arguments: without the program's name.
        program: what the help calls the command.
        default: values of the options not given.
        text: what the help says first; None is the model's docstring.

    Raises:
        UserError: an unknown option, with the nearest name, or a value of the wrong type or out of range.
        SystemExit: help was asked for and printed.
    """
    import tyro

    keywords: dict[str, Any] = {} if default is None else {"default": default}
    boxes = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxes):
            options, unknown = tyro.cli(
                model,
                args=arguments,
                prog=program,
                description=text or model.__doc__,
                config=(tyro.conf.OmitArgPrefixes,),
                return_unknown_args=True,
                **keywords,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(f"{_refusal(stop, boxes.getvalue(), model)}; see {program} --help") from stop
    if unknown:
        known = {f"--{name.replace('_', '-')}" for name in option_paths(model)}
        name = unknown[0].split("=")[0]
        meant = [each for each in OTHER_NAMES.get(name.lstrip("-").replace("_", "-").lower(), ()) if each in known]
        hint = f"; did you mean {' or '.join(map(repr, meant))}?" if meant else nearest(name, sorted(known))
        hint = hint or f"; see {program} --help"
        raise UserError(f"unknown option {unknown[0]!r}{hint}")
    return options  # type: ignore[no-any-return]


def _refusal(stop: SystemExit, boxes: str, model: type[BaseModel]) -> str:
    """Why tyro refused, in one line: pydantic's own error if that is the cause, else the head of tyro's box."""
    cause: BaseException | None = stop
    while cause is not None:
        if isinstance(cause, ValidationError):
            return one_line(cause, model=model)
        cause = cause.__context__
    # Title, rule, reason, rule, help; the title is part of the frame where frames can be drawn.
    sections: list[list[str]] = [[]]
    for line in (each.strip("│ ") for each in boxes.splitlines()):
        if line.startswith(("╭", "──", "-----")):
            sections.append([])
        else:
            sections[-1].append(line)
    if len(sections) < 2:
        return boxes
    reason, _, _ = " ".join(sections[1]).partition(" Got errors:")  # of each type that an option may have
    return reason.rstrip(". ")


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
