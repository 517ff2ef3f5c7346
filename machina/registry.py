"""Names to builders: the one table of algorithms, and where configurations are found.

Environments have their table in ``machina.envs.builders``. Nothing registers itself by being imported.
Importing this module loads no torch, so that command-line help is instant.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from machina.config import AlgorithmConfig, EnvConfig, RunConfig, merged, one_line
from machina.envs.builders import describe
from machina.errors import UserError, nearest
from machina.interfaces import Algorithm


class AlgorithmEntry(NamedTuple):
    """One row of the table."""

    summary: str
    config: Callable[[], type[AlgorithmConfig]]
    """Loads the configuration class; imports no torch."""
    build: Callable[[Any], Algorithm]
    """Makes the algorithm from its configuration."""


def _attribute(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _entry(summary: str, config: str, builder: str) -> AlgorithmEntry:
    return AlgorithmEntry(summary, lambda: _attribute(config), lambda options: _attribute(builder)(options))


ALGORITHMS: dict[str, AlgorithmEntry] = {
    "impala": _entry(
        "V-trace actor-critic, one value head per task",
        "machina.algorithms.impala.config:ImpalaConfig",
        "machina.algorithms.impala.builder:build",
    ),
    "impala_popart": _entry(
        "IMPALA with PopArt-normalized value heads, for tasks of different reward scale",
        "machina.algorithms.impala_popart.config:ImpalaPopArtConfig",
        "machina.algorithms.impala.builder:build",
    ),
    "ppo": _entry(
        "Proximal policy optimization, for one agent and for teams and leagues",
        "machina.algorithms.ppo.config:PPOConfig",
        "machina.algorithms.ppo.builder:build",
    ),
    "pqn": _entry(
        "Parallelized Q-network: Q-learning without replay, for discrete actions",
        "machina.algorithms.pqn.config:PQNConfig",
        "machina.algorithms.pqn.builder:build",
    ),
    "dqn": _entry(
        "Deep Q-network with a replay; every part of Rainbow is an option",
        "machina.algorithms.dqn.config:DQNConfig",
        "machina.algorithms.dqn.builder:build",
    ),
    "rainbow": _entry(
        "DQN with its six extensions, for discrete actions",
        "machina.algorithms.rainbow.config:RainbowConfig",
        "machina.algorithms.rainbow.builder:build",
    ),
    "apex": _entry(
        "Q-learning from a prioritized replay that many actors fill",
        "machina.algorithms.apex.config:ApexConfig",
        "machina.algorithms.apex.builder:build",
    ),
    "r2d2": _entry(
        "Recurrent Q-learning from replayed sequences, for tasks that need memory",
        "machina.algorithms.r2d2.config:R2D2Config",
        "machina.algorithms.r2d2.builder:build",
    ),
    "r2d3": _entry(
        "R2D2 with a share of demonstrations in every batch",
        "machina.algorithms.r2d3.config:R2D3Config",
        "machina.algorithms.r2d3.builder:build",
    ),
}


SHIPPED = frozenset(ALGORITHMS)
"""Algorithms of the package, not registered by a program."""


def register_algorithm(
    name: str, summary: str, config: type[AlgorithmConfig], build: Callable[[Any], Algorithm]
) -> None:
    """Add an algorithm of your own to the table.

    Args:
        name: for ``machina.train`` and in ``RunConfig.algorithm``; known to programs that register it.
        summary: one line.
        config: its configuration class.
        build: makes the algorithm from an instance of ``config``.

    Raises:
        UserError: the name is taken.
    """
    if name in ALGORITHMS:
        raise UserError(f"algorithm {name!r} exists already; choose another name")
    ALGORITHMS[name] = AlgorithmEntry(summary, lambda: config, build)


def algorithm_entry(name: str) -> AlgorithmEntry:
    """The row of ``name``.

    Raises:
        UserError: there is none; names the nearest.
    """
    if name not in ALGORITHMS:
        known = (
            f"; known: {', '.join(ALGORITHMS)}; one of your own is known to the program that registers it, from which "
        )
        known += "machina.resume and machina.evaluate continue and score its runs"
        raise UserError(f"unknown algorithm {name!r}{nearest(name, ALGORITHMS) or known}")
    return ALGORITHMS[name]


def shipped_configurations() -> dict[str, Path]:
    """Name to file of every configuration in the package."""
    folder = resources.files("machina.configs")
    return {
        entry.name.removesuffix(".yaml"): Path(str(entry)) for entry in folder.iterdir() if entry.name.endswith(".yaml")
    }


def find_configuration(name: str) -> Path:
    """The file of a shipped configuration, or a path to the user's own.

    Raises:
        UserError: there is none; names the nearest.
    """
    shipped = shipped_configurations()
    if name in shipped:
        return shipped[name]
    if Path(name).is_file():
        return Path(name)
    raise UserError(f"configuration {name!r} is neither a file nor shipped{nearest(name, shipped)}")


def run_config_type(algorithm: str, environment: str) -> type[RunConfig[AlgorithmConfig, EnvConfig]]:
    """The configuration class of a job: the algorithm's section and the environment's.

    Raises:
        UserError: unknown algorithm or environment.
    """
    algo: type[AlgorithmConfig] = algorithm_entry(algorithm).config()
    env: type[EnvConfig] = describe(environment)
    return RunConfig[algo, env]  # type: ignore[valid-type]


def default_config(
    algorithm: str, environment: str, changes: dict[str, Any], where: str
) -> RunConfig[AlgorithmConfig, EnvConfig]:
    """A job's configuration: the defaults with ``changes`` laid over.

    Args:
        algorithm: name in the table.
        environment: what ``machina.envs.builders.describe`` knows.
        changes: nested sections, as in a configuration file.
        where: source of the changes, for messages.

    Raises:
        UserError: unknown names or keys, or a value out of range.
    """
    config_type = run_config_type(algorithm, environment)
    fields = config_type.model_fields
    algo, env = fields["algo"].annotation, fields["env"].annotation
    assert algo is not None
    assert env is not None
    plain = config_type(algorithm=algorithm, environment=environment, algo=algo(), env=env())
    try:
        return config_type.model_validate(merged(plain.model_dump(), changes, where))
    except ValidationError as error:
        raise UserError(one_line(error, where, config_type)) from error
