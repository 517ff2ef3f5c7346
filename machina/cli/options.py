"""Options of a command from a pydantic model, by tyro."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

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
        _refuse_flag_with_value(model, arguments, unknown[0])
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
    if wrong := _WRONG_KIND.match(reason):
        option = wrong["option"].replace("-", "_")
        return f"{option}={wrong['list'] or wrong['one']}: must be {_in_words(_annotation(model, option))}"
    if reason.startswith("Missing from "):
        return f"missing: {', '.join(line.split()[0] for line in sections[1] if _REQUIRED.fullmatch(line))}"
    if wrong := _NO_VALUE.match(reason):
        return f"{wrong['option'] if wrong['option'].startswith('--') else wrong['option'].upper()} needs a value"
    return reason.rstrip(". ")


_WRONG_KIND = re.compile(r"Error parsing --(?P<option>[\w-]+): .*?(?:\[(?P<list>[^\[\]]*)\]|(?P<one>'.*'))\W*$")
_REQUIRED = re.compile(r"(--[\w-]+|[A-Z_]+|\{.*\})( [A-Z]+)?")
_NO_VALUE = re.compile(r"Missing value for argument '(?P<option>[^']+)'")
_WORDS = {int: "a whole number", float: "a number", str: "a name", Path: "a path", type(None): "None"}


def _annotation(model: type[BaseModel], option: str) -> Any:
    for section in option_paths(model).get(option, ()):
        annotation = model.model_fields[section].annotation
        assert isinstance(annotation, type)
        model = annotation
    return model.model_fields[option].annotation


def _in_words(annotation: Any) -> str:
    """What an option takes: ``a whole number or None``."""
    if annotation in _WORDS:
        return _WORDS[annotation]
    of = get_args(annotation)
    if get_origin(annotation) is Literal:
        return " or ".join(map(str, of))
    if get_origin(annotation) is Annotated:
        return _in_words(of[0])
    if get_origin(annotation) is tuple:
        return f"{_in_words(of[0]).removeprefix('a ')}s"
    return " or ".join(map(_in_words, of))


def _refuse_flag_with_value(model: type[BaseModel], arguments: list[str], unknown: str) -> None:
    """Say how a switch is turned off, where it was given a value.

    Raises:
        UserError: ``unknown`` follows a switch.
    """
    before = arguments[arguments.index(unknown) - 1] if unknown in arguments[1:] else ""
    option = before.removeprefix("--").removeprefix("no-")
    name = option.replace("-", "_")
    if before.startswith("--") and name in option_paths(model) and _annotation(model, name) is bool:
        raise UserError(f"{before} takes no value, got {unknown!r}; use --{option} or --no-{option}")


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
