"""What the user's program has registered, for the processes of a cluster."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from machina.config import option_paths
from machina.envs.builders import ENVIRONMENTS
from machina.launch.configuration import AnyRunConfig
from machina.nets.build import NETWORKS, NetworkBuilder
from machina.registry import ALGORITHMS, AlgorithmEntry

T = TypeVar("T")

WITH_MODULES = {"wrapper", "network_name"}
"""Options that may be ``module:function``."""


class NameTables(NamedTuple):
    """A copy of the tables of names. Cloudpickle carries it, functions of ``__main__`` by value."""

    algorithms: dict[str, AlgorithmEntry]
    """The user's; the others are in every process."""
    environments: dict[str, Callable[[int], Any]]
    networks: dict[str, NetworkBuilder]
    gymnasium_specs: dict[str, Any]
    """The environment's, if it is a gymnasium id without a module, which a program may have registered by itself."""

    def restore(self) -> None:
        """Make the names known in this process; those that it knows already stay."""
        import gymnasium

        _add(ALGORITHMS, self.algorithms)
        _add(ENVIRONMENTS, self.environments)
        _add(NETWORKS, self.networks)
        _add(gymnasium.registry, self.gymnasium_specs)


def _add(known: dict[str, T], names: dict[str, T]) -> None:
    for name, entry in names.items():
        known.setdefault(name, entry)


def name_tables(config: AnyRunConfig) -> NameTables:
    """Those of this process as they are now, for a run of ``config``."""
    import gymnasium

    name = config.environment
    return NameTables(
        {name: entry for name, entry in ALGORITHMS.items() if _home(entry.build) != AlgorithmEntry.__module__},
        dict(ENVIRONMENTS),
        dict(NETWORKS),
        {name: gymnasium.registry[name]} if name in gymnasium.registry else {},
    )


def modules_of(config: AnyRunConfig, tables: NameTables) -> set[str]:
    """Names of the modules that hold the user's parts of a run."""
    names = {_home(function) for function in (*tables.environments.values(), *tables.networks.values())}
    for entry in tables.algorithms.values():
        names |= {_home(entry.build), entry.config().__module__}
    for spec in tables.gymnasium_specs.values():
        for point in (spec.entry_point, spec.vector_entry_point):
            names.add(point.partition(":")[0] if isinstance(point, str) else _home(point))
    paths = option_paths(type(config))
    given = [functools.reduce(getattr, (*paths[name], name), config) for name in WITH_MODULES & paths.keys()]
    return names | {str(value).partition(":")[0] for value in (config.environment, *given) if ":" in str(value)}


def _home(function: Any) -> str:
    """The module that a function, a class or a partial call was written in."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__module__", type(function).__module__))
