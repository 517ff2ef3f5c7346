"""Environments by gymnasium id, natively vectorized or in worker processes."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec as GymnasiumSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from machina.envs.declared import DeclaredEnv
from machina.envs.infos import MergedInfos
from machina.envs.slots import AnyVectorEnv
from machina.plugins import load_module


def find_spec(name: str) -> GymnasiumSpec | None:
    """The registered environment ``name``, such as ``CartPole-v1`` or ``module:Env-v0``; None when there is none.

    Raises:
        UserError: the module can't be imported.
    """
    module, _, environment = name.rpartition(":")
    if module:
        load_module(module, f"environment {name!r}")
    try:
        return gymnasium.spec(environment)
    except gymnasium.error.Error:
        return None


def is_native(spec: GymnasiumSpec) -> bool:
    """Whether the environment has a vectorized form of its own."""
    return spec.vector_entry_point is not None and not spec.additional_wrappers


def make_native(spec: GymnasiumSpec, num_slots: int) -> AnyVectorEnv:
    """``num_slots`` environments in the vectorized form of their own."""
    return gymnasium.make_vec(spec, num_envs=num_slots, vectorization_mode="vector_entry_point")


class InProcessEnvs(MergedInfos, SyncVectorEnv[Any, Any]):
    """Environments stepped one after the other in this process.

    Args:
        spec: of the environment.
        num_slots: how many.
        name: of the environment, such as ``module:Env-v0``.
        keep_infos: see ``machina.envs.declared.DeclaredEnv``.
        render_mode: what the environment is made with.
    """

    def __init__(
        self, spec: GymnasiumSpec, num_slots: int, name: str, keep_infos: bool, render_mode: str | None = None
    ) -> None:
        arguments: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}

        def make() -> DeclaredEnv:
            env = DeclaredEnv(gymnasium.make(spec, **arguments), name, keep_infos=keep_infos)
            built.append(env)
            return env

        built: list[gymnasium.Env[Any, Any]] = []
        try:
            super().__init__([make] * num_slots, autoreset_mode=AutoresetMode.NEXT_STEP)
        except BaseException:
            self.envs = built
            self.close()
            raise
