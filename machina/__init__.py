"""Machina: reinforcement learning at scale with simple algorithms.

``machina.train``, ``resume``, ``evaluate``, ``match`` and ``load_policy`` do what the commands do;
``register_algorithm``, ``register_environment`` and ``register_network`` add your own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from machina.errors import RunFailedError, UserError

if TYPE_CHECKING:
    from machina.envs.builders import register_environment
    from machina.jobs.api import evaluate, load_policy, resume, train
    from machina.jobs.match import match
    from machina.nets.build import register_network
    from machina.registry import register_algorithm

__version__ = "0.1.0"

__all__ = [
    "RunFailedError",
    "UserError",
    "evaluate",
    "load_policy",
    "match",
    "register_algorithm",
    "register_environment",
    "register_network",
    "resume",
    "train",
]

# Loaded on first use: the command line must not wait for torch to print its help.
_HOMES = {
    "evaluate": "machina.jobs.api",
    "load_policy": "machina.jobs.api",
    "match": "machina.jobs.match",
    "resume": "machina.jobs.api",
    "train": "machina.jobs.api",
    "register_algorithm": "machina.registry",
    "register_environment": "machina.envs.builders",
    "register_network": "machina.nets.build",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'machina' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
