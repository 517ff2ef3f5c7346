"""Arguments of the functions that users call, held against their annotations."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, get_type_hints

from pydantic import ConfigDict, ValidationError, create_model

from machina.config import one_line
from machina.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check every argument before the call, with the ranges that its annotation states.

    The function raises ``UserError`` for what is of another type or out of range, as its command does.
    """
    signature = inspect.signature(function)
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {name: (hints[name], ...) for name in signature.parameters}
    settings = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
    model = create_model(function.__name__, __config__=settings, **fields)

    @functools.wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        bound = signature.bind(*arguments, **named)
        bound.apply_defaults()
        try:
            values = model.model_validate(bound.arguments)
        except ValidationError as error:
            raise UserError(one_line(error, model=model)) from error
        bound.arguments.update({name: getattr(values, name) for name in signature.parameters})
        return function(*bound.args, **bound.kwargs)

    return call
