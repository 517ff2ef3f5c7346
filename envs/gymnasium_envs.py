"""Environments by gymnasium id, natively vectorised or in worker processes."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec as GymnasiumSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from machina.envs.slots import AnyVectorEnv
from machina.errors import UserError, nearest
from machina.plugins import load_module


def find_spec(name: str) -> GymnasiumSpec:
    """The registered environment ``name``, such as ``CartPole-v1`` or ``module:Env-v0``.

    Raises:
        UserError: the module can't be imported or no such id is registered; names the nearest ids.
    """
    module, _, environment = name.rpartition(":")
    if module:
        load_module(module, f"environment {name!r}")
    try:
        return gymnasium.spec(environment)
    except gymnasium.error.Error as error:
        hint = nearest(environment, gymnasium.registry) or "; see gymnasium.pprint_registry()"
        raise UserError(f"environment {name!r}: gymnasium knows no id {environment!r}{hint}") from error


def is_native(spec: GymnasiumSpec) -> bool:
    """Whether the environment has a vectorised form of its own."""
    return spec.vector_entry_point is not None and not spec.additional_wrappers


def make_native(spec: GymnasiumSpec, num_slots: int) -> AnyVectorEnv:
    """``num_slots`` environments in the vectorised form of their own."""
    return gymnasium.make_vec(spec, num_envs=num_slots, vectorization_mode="vector_entry_point")


def make_in_process(spec: GymnasiumSpec, num_slots: int, render_mode: str | None = None) -> AnyVectorEnv:
    """``num_slots`` environments stepped one after the other in this process."""
    arguments: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    make: functools.partial[Any] = functools.partial(gymnasium.make, spec, **arguments)
    return SyncVectorEnv([make] * num_slots, autoreset_mode=AutoresetMode.NEXT_STEP)


def make_in_workers(spec: GymnasiumSpec, num_slots: int) -> AnyVectorEnv:
    """``num_slots`` environments, each in a process of its own, observations in shared memory.

    Workers come from a fork server: forking this process is unsafe once torch has started threads,
    and a server that has loaded gymnasium starts workers several times faster than fresh interpreters.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "gymnasium"])
    make = functools.partial(_make_in_worker, spec, os.getpid())
    return AsyncVectorEnv(
        [make] * num_slots, shared_memory=True, context="forkserver", autoreset_mode=AutoresetMode.NEXT_STEP
    )


def _make_in_worker(spec: GymnasiumSpec, parent: int) -> gymnasium.Env[Any, Any]:
    """The environment of one worker; AsyncVectorEnv also calls this once in the parent to read the spaces."""
    if os.getpid() != parent:
        # Ctrl-C reaches every process of the terminal; only the parent decides what it means.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return gymnasium.make(spec)
