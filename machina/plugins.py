"""The user's own code by name: ``module:function``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from machina.errors import RAISED, UserError, in_one_line_with_place, nearest


def load_module(module: str, what: str) -> ModuleType:
    """Import a module; those of the working directory are found, here and in worker processes.

    Args:
        module: its name.
        what: what the user gave, for the message: ``wrapper 'mine:scaled'``.

    Raises:
        UserError: it can't be imported.
    """
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        remedy = "install it or run in the folder that holds it"
        if not f"{module}.".startswith(f"{missing}."):  # it is there, what it imports is not
            remedy = f"install the package that holds {missing!r}"
        raise UserError(f"{what}: module {module!r} can't be imported ({error}); {remedy}") from error
    except UserError:
        raise
    except RAISED as error:  # the module is there, its code or another release of what it imports fails
        raise UserError(f"{what}: module {module!r} raised {in_one_line_with_place(error, module)}") from error


def load_function(path: str, field: str) -> Callable[..., Any]:
    """Import ``module:function``.

    Args:
        path: what the user gave.
        field: the option it was given for.

    Raises:
        UserError: not of that form, or module or function do not exist; names the nearest.
    """
    what = f"{field} {path!r}"
    module_name, separator, name = path.partition(":")
    if not (separator and module_name and name):
        raise UserError(f"{what} must be module:function")
    module = load_module(module_name, what)
    function = getattr(module, name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value)]
        raise UserError(f"{what}: module {module_name!r} has no function {name!r}{nearest(name, functions)}")
    return function  # type: ignore[no-any-return]
