"""Which files of the user's own code the processes of a cluster need."""

from __future__ import annotations

import ast
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path

MAIN = "__main__"
"""The user's program itself; its functions travel by value, what it imports does not."""

INSTALLED_FOLDERS = {"site-packages", "dist-packages"}


def user_modules(names: Iterable[str]) -> list[str]:
    """Files and package folders to send along: those of the named modules and of all the own code they import.

    What is installed (in site-packages, or with Python) is expected on every node, as Machina itself is. Imports are
    read in the source, wherever they stand in it; a module that is only named in a string must be named here.

    Args:
        names: as in ``import``, or ``__main__``. Of ``package.module`` the whole package is sent.
    """
    paths: dict[str, Path | None] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop().partition(".")[0]
        if name in paths:
            continue
        paths[name] = None if name == MAIN else _own_path(name)
        for file in _main_sources() if name == MAIN else _sources(paths[name]):
            waiting += _imports(file)
        if name == MAIN:  # run as python -m package.module
            waiting.append(sys.modules[MAIN].__package__ or MAIN)
    return sorted({str(path) for path in paths.values() if path is not None})


def _own_path(name: str) -> Path | None:
    """File or package folder of a top-level module, or None for one that is installed, built in or absent."""
    if name == __name__.partition(".")[0] or name in sys.stdlib_module_names:
        return None
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # made by hand, without a specification
        return None
    path = None if spec is None else _path(spec)
    return None if path is None or _is_installed(path) else path


def _path(spec: ModuleSpec) -> Path | None:
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).absolute()
    # A compiled module runs only where it was compiled: it has to be installed.
    return Path(spec.origin).absolute() if spec.origin and spec.origin.endswith(".py") else None


def _is_installed(path: Path) -> bool:
    standard = Path(sysconfig.get_path("stdlib"))
    return path.is_relative_to(standard) or not INSTALLED_FOLDERS.isdisjoint(path.parts)


def _main_sources() -> list[Path]:
    file = getattr(sys.modules[MAIN], "__file__", None)
    return [] if file is None else [Path(file)]


def _sources(path: Path | None) -> list[Path]:
    if path is None:
        return []
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def _imports(file: Path) -> set[str]:
    """Modules that a source file imports by their full names."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):  # a template or a program for another Python
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
    return names
