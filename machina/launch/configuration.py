"""From names, files and options to one validated configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from machina.config import AlgorithmConfig, EnvConfig, RunConfig
from machina.errors import UserError
from machina.registry import default_config, find_configuration, shipped_configurations
from machina.yaml_files import load_yaml

AnyRunConfig = RunConfig[AlgorithmConfig, EnvConfig]
"""Of any algorithm and environment: what is read of their sections is what all of them have."""

DEFAULTS = "defaults"
"""The name that stands for no file: every option at its default, the paper's value."""


def job_config(
    algorithm: str | None, environment: str | None, configuration: str | None, **changes: Any
) -> tuple[AnyRunConfig, str]:
    """The configuration of a job.

    The file is ``configuration``, or the shipped one named ``<algorithm>_<environment>`` when there is
    one. It fills in what is not given: algorithm, environment and every option. ``defaults`` takes no file.

    Args:
        algorithm: name, or None to take it from the file.
        environment: name, or None to take it from the file.
        configuration: a shipped name or a file.
        changes: fields, nested in their sections, that win over the file.

    Returns:
        The configuration, and where its values come from.

    Raises:
        UserError: something is unknown or out of range.
    """
    if configuration is None and f"{algorithm}_{environment}" in shipped_configurations():
        configuration = f"{algorithm}_{environment}"
    if configuration == DEFAULTS:
        configuration = None
    content = {} if configuration is None else load_yaml(find_configuration(configuration))
    algorithm = algorithm or content.get("algorithm")
    environment = environment or content.get("environment")
    if not algorithm or not environment:
        raise UserError("name an algorithm and an environment, as in `machina train impala pong`; see machina list")
    where = f"configuration {configuration!r}" if configuration else DEFAULTS
    if content.get("algorithm", algorithm) != algorithm:
        where += f", which is of {content['algorithm']}"
    algorithm, environment = str(algorithm), str(environment)
    content = _overlaid(content, {**changes, "algorithm": algorithm, "environment": environment})
    return default_config(algorithm, environment, content, where), where


def _overlaid(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``content`` with ``changes`` laid over, through nested sections."""
    result = dict(content)
    for key, value in changes.items():
        former = result.get(key)
        if isinstance(former, dict) and isinstance(value, dict):
            value = _overlaid(former, value)
        result[key] = value
    return result


def saved_config(run_dir: Path) -> AnyRunConfig:
    """The configuration a run was started with.

    Raises:
        UserError: it can't be read.
    """
    file = run_dir / "config.yaml"
    content = load_yaml(file)
    return default_config(str(content.get("algorithm")), str(content.get("environment")), content, str(file))


def changed_config(config: AnyRunConfig, changes: dict[str, Any]) -> AnyRunConfig:
    """The configuration with other values for some of its own fields.

    Raises:
        UserError: a value is out of range.
    """
    content = {**config.model_dump(mode="json"), **changes}
    return default_config(config.algorithm, config.environment, content, "machina resume")


def config_for_acting(run_dir: Path) -> AnyRunConfig:
    """The configuration of a run whose policy is only to act, perhaps on a machine without the learner's GPUs.

    Raises:
        UserError: it can't be read.
    """
    config = saved_config(run_dir)
    asked = config.runtime.actor_device or config.runtime.device
    anywhere = {"device": "cpu" if asked == "cpu" else "auto", "actor_device": None}
    return config.model_copy(update={"runtime": config.runtime.model_copy(update=anywhere)})
