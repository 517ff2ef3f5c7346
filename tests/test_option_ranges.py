"""Every option that is a number has a least and a largest value, and says them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic.fields import FieldInfo

from machina.cli.main import COMMANDS
from machina.config import Config
from machina.ranges import number_range
from machina.registry import ALGORITHMS, run_config_type

ENVIRONMENTS = ("pong", "CartPole-v1", "connect_four", "catch")
"""One of every configuration class."""


def numbers(annotation: Any) -> bool:
    """Whether a field may hold a number."""
    return annotation in (int, float) or any(map(numbers, get_args(annotation)))


def fields(model: type[Config]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            yield from fields(field.annotation)
        else:
            yield name, field


def every_field() -> dict[str, FieldInfo]:
    models: list[type[Config]] = [
        run_config_type(algorithm, environment) for algorithm in ALGORITHMS for environment in ENVIRONMENTS
    ]
    for command in COMMANDS:
        module = importlib.import_module(f"machina.cli.{command}_command")
        models += [each for name, each in vars(module).items() if name.endswith("Options") and issubclass(each, Config)]
    return {f"{model.__name__}.{name}": field for model in models for name, field in fields(model)}


NUMBERS = {name: field for name, field in every_field().items() if numbers(field.annotation)}


def test_there_are_numbers() -> None:
    assert len(NUMBERS) > 100
    assert any("EvalOptions" in name for name in NUMBERS)


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_every_number_has_a_stated_range(name: str) -> None:
    field = NUMBERS[name]
    description = field.description or ""
    if name.endswith(".actors") and "Run" in name:  # a number or a word; its validator knows the range
        assert description.endswith("1 to 10000.")
        return
    stated = number_range(field)
    assert " to " in stated or ", " in stated, f"{name} has the range {stated!r}"
    assert description.endswith(f" {stated[:1].upper()}{stated[1:]}.")
    assert description.count(stated[1:]) == 1
