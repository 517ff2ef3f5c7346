"""What the networks need to know of an environment, read off a small one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from machina.envs.wrappers import refuse_learning, wrapped
from machina.specs import EnvSpec

if TYPE_CHECKING:
    from machina.envs.slots import AnyVectorEnv


def spec_of(
    env: AnyVectorEnv,
    name: str,
    tasks: tuple[str, ...],
    protocol: dict[str, Any],
    wrapper: str | None,
    bins: int | None = None,
    *,
    can_drop: bool = False,
) -> EnvSpec:
    """The spec read off a small environment, which is closed; ``can_drop``: the user may give ``--drop-keys``."""
    from machina.envs.action_spaces import action_spec
    from machina.envs.declared import close_in_time
    from machina.envs.observations import observation_specs

    outermost = env
    try:
        outermost = wrapped(env, wrapper)
        refuse_learning(outermost, f"environment {name!r}" if wrapper is None else f"wrapper {wrapper!r}")
        return EnvSpec(
            name=name,
            tasks=tasks,
            observation=observation_specs(name, outermost.single_observation_space, can_drop=can_drop),
            action=action_spec(name, outermost.single_action_space, bins),
            protocol=protocol if wrapper is None else {**protocol, "wrapper": wrapper},
        )
    finally:
        close_in_time(outermost.close, name)


def spec_of_wrapped(env: AnyVectorEnv, spec: EnvSpec, wrapper: str) -> EnvSpec:
    """``spec`` with the spaces that the wrapper leaves; whole stacks are stored, since it may change pixels."""
    seen = spec_of(env, spec.name, spec.tasks, spec.protocol, wrapper)
    return seen.model_copy(update={"frames_per_step": spec.frames_per_step, "clip_rewards": spec.clip_rewards})
