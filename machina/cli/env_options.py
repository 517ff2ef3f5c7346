"""Options of an environment for commands that take its name."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import create_model

from machina.config import Config, EnvConfig

OF_TRAINING = {"envs_per_task", "processes"}
"""How many there are, and where they are stepped: of no consequence for one that is watched."""

Model = TypeVar("Model", bound=Config)


def with_env_options(options: type[Model], env: EnvConfig) -> type[Model]:
    """A command's options and, as their defaults, an environment's.

    Args:
        options: of the command.
        env: of the environment.
    """
    fields: dict[str, Any] = {}
    for name, field in type(env).model_fields.items():
        if name not in OF_TRAINING:
            changed = field._copy()
            changed.default = getattr(env, name)
            fields[name] = (field.annotation, changed)
    return create_model(options.__name__, __base__=options, __doc__=options.__doc__, **fields)


def env_config(options: Config, env: EnvConfig) -> EnvConfig:
    """The environment's configuration with the values of its options."""
    values = {name: getattr(options, name) for name in type(env).model_fields if name not in OF_TRAINING}
    return type(env).model_validate({**env.model_dump(), **values})
