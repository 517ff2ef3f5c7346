"""PettingZoo's environments: found by name, built, and what their agents see and do.

The name is ``pettingzoo:ID``, a module such as ``mpe2.simple_spread_v3``, or ``module:parallel_env`` or ``module:env``.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from machina.envs.action_spaces import action_spec
from machina.envs.declared import close_in_time
from machina.envs.games.pettingzoo_oddities import reading
from machina.envs.games.teams import group, team_numbers
from machina.envs.observations import flat_observation, leaves, observation_specs
from machina.errors import RAISED, UserError, in_one_line, nearest
from machina.plugins import load_module
from machina.specs import ActionSpec, ArraySpec, EnvSpec, Seat, discrete
from machina.types import ACTION_MASK, OBSERVATION

FUNCTIONS = ("parallel_env", "env")
"""What a PettingZoo module calls the functions that build its environment; the first is preferred."""

AnyGame = Any
"""A PettingZoo environment; parallel ones and turn-based ones have no base class in common."""

REMEDY = "give agents one of these, or a Dict or Tuple of them"
"""What can be done about a space that no policy can read or act in: several agents have no wrapper."""

Space = spaces.Space[Any]


def load_builder(name: str) -> Callable[..., AnyGame]:
    """The function that builds the environment ``name``.

    Raises:
        UserError: the module can't be imported or has no such function, or PettingZoo knows no such id.
    """
    # pygame, which many environments draw with, greets on standard output.
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    module_name, _, function = name.partition(":")
    if module_name == "pettingzoo":
        return _registered(name, function)
    module = load_module(module_name, f"environment {name!r}")
    wanted = (function,) if function else FUNCTIONS
    for each in wanted:
        if callable(found := getattr(module, each, None)):
            return found  # type: ignore[no-any-return]
    functions = [key for key, value in vars(module).items() if callable(value)]
    raise UserError(
        f"environment {name!r}: module {module_name!r} has no function {' or '.join(wanted)}"
        f"{nearest(wanted[0], functions)}"
    )


def _registered(name: str, environment: str) -> Callable[..., AnyGame]:
    """What builds PettingZoo's own environment of that id."""
    import pettingzoo

    if environment in pettingzoo.parallel_registry:
        return functools.partial(pettingzoo.make, "parallel", environment)
    if environment in pettingzoo.aec_registry:
        return functools.partial(pettingzoo.make, "aec", environment)
    hint = nearest(environment, pettingzoo.aec_registry) or "; see pettingzoo.pprint_registry()"
    raise UserError(f"environment {name!r}: PettingZoo knows no id {environment!r}{hint}")


def build(name: str, **options: Any) -> AnyGame:
    """One environment.

    Raises:
        UserError: it can't be built, or it is not PettingZoo's.
    """
    from pettingzoo import AECEnv, ParallelEnv

    builder = load_builder(name)
    if name.startswith(("pettingzoo.atari.", "pettingzoo:atari/")):
        import ale_py

        options["auto_rom_install_path"] = str(Path(ale_py.__file__).parent / "roms")
    try:
        env = builder(**options)
    except RAISED as error:
        raise UserError(f"environment {name!r} can't be built: {in_one_line(error)}") from error
    if not isinstance(env, (AECEnv, ParallelEnv)):
        raise UserError(f"environment {name!r} must be a PettingZoo AECEnv or ParallelEnv, got {type(env).__name__}")
    if not getattr(env, "possible_agents", None):
        close_in_time(env.close, name)
        raise UserError(f"environment {name!r} doesn't say who may play; give it possible_agents")
    return env


def build_several(name: str, count: int, *, for_video: bool) -> list[AnyGame]:
    """Copies of an environment; those whose agents see pictures are built so that they draw.

    Without a render mode some show their agents a picture that they never draw on: black, or that of the first step.

    Args:
        name: of the environment.
        count: how many, at least 1.
        for_video: whether they are to be filmed.

    Raises:
        UserError: they can't be built, none is left open then.
    """
    envs: list[AnyGame] = []
    drawn: dict[str, Any] = {"render_mode": "rgb_array"}
    options = drawn if for_video else {}
    try:
        envs.append(build(name, **options))
        if not for_video and _draws_what_is_seen(envs[0]) and (drawing := _tried(name, drawn)) is not None:
            close_in_time(envs.pop().close, name)
            envs.append(drawing)
            options = drawn
        while len(envs) < count:
            envs.append(build(name, **options))
    except BaseException:
        for env in envs:
            close_in_time(env.close, name)
        raise
    return envs


def _draws_what_is_seen(env: AnyGame) -> bool:
    """Whether agents see pictures, and the environment can draw."""
    parts = [part for agent in env.possible_agents for _, part in leaves(env.observation_space(agent))]
    pictures = any(isinstance(part, spaces.Box) and part.dtype == np.uint8 and len(part.shape) > 1 for part in parts)
    return pictures and "rgb_array" in (env.metadata.get("render_modes") or ())


def _tried(name: str, options: dict[str, Any]) -> AnyGame | None:
    """An environment built with options; None where it takes none of them, and is as it is without."""
    try:
        return build(name, **options)
    except UserError:
        return None


def read_spec(name: str, teams: str, protocol: dict[str, str | int | float | bool]) -> EnvSpec:
    """What the agents of an environment see and do, padded to the largest of them.

    Agents whose names agree before the last ``_`` are one role, if their spaces agree as well.

    Args:
        name: of the environment.
        teams: who plays with whom, see ``machina.envs.games.teams.team_numbers``.
        protocol: for the spec.

    Raises:
        UserError: spaces that can't be trained on, or that can't be those of one policy; teams that are none.
    """
    env = build(name)
    try:
        agents = [AgentSpec.read(name, env, agent) for agent in env.possible_agents]
        beyond = reading(env).protocol
    finally:
        close_in_time(env.close, name)
    kinds = list(dict.fromkeys(agent.kind for agent in agents))
    numbers = team_numbers(teams, [agent.name for agent in agents])
    tasks: list[str] = []
    for kind in kinds:
        first = next(agent for agent in agents if agent.kind == kind)
        tasks.append(first.name if first.group in tasks else first.group)
    actions = [agent.action for agent in agents]
    observation = _padded(name, agents)
    if any(agent.masked for agent in agents) or len({action.choices for action in actions}) > 1:
        choices = max(action.num_parameters for action in actions)
        observation[ACTION_MASK] = ArraySpec(shape=(choices,), dtype="bool")
    return EnvSpec(
        name=name,
        tasks=tuple(tasks),
        seats=tuple(
            Seat(agent=agent.name, role=kinds.index(agent.kind), team=team)
            for agent, team in zip(agents, numbers, strict=True)
        ),
        observation=observation,
        action=_common_action(name, actions),
        protocol={**protocol, **beyond, "teams": teams},
    )


class AgentSpec(NamedTuple):
    """What one agent sees and does."""

    name: str
    observation: dict[str, ArraySpec]
    action: ActionSpec
    masked: bool

    @classmethod
    def read(cls, name: str, env: AnyGame, agent: Any) -> AgentSpec:
        """Of one agent of environment ``name``; raises UserError for spaces that can't be trained on."""
        space = env.observation_space(agent)
        masked = isinstance(space, spaces.Dict) and ACTION_MASK in space.spaces
        if masked:
            rest = {key: part for key, part in space.spaces.items() if key != ACTION_MASK}
            space = rest[OBSERVATION] if rest.keys() == {OBSERVATION} else spaces.Dict(rest)
        action = action_spec(name, env.action_space(agent), remedy=REMEDY)
        if masked and action.kind == "continuous":
            raise UserError(f"environment {name!r}: {agent} has an action mask but continuous actions {action}")
        return cls(str(agent), observation_specs(name, space, REMEDY), action, masked)

    def arrays(self, observation: Any) -> dict[str, Any]:
        """What the agent sees, by the keys of ``observation``; the mask aside.

        Args:
            observation: an element of its space.

        Raises:
            ValueError: a choice is not one of its space.
        """
        if self.masked and observation.keys() == {OBSERVATION, ACTION_MASK}:
            observation = observation[OBSERVATION]
        return flat_observation(self.observation, observation, batched=False)

    @property
    def group(self) -> str:
        """Its name before the last ``_``."""
        return group(self.name)

    @property
    def kind(self) -> tuple[Any, ...]:
        """Equal for agents of one role."""
        seen = tuple((key, part.shape, part.dtype, part.choices) for key, part in self.observation.items())
        return self.group, seen, self.action, self.masked


def _padded(name: str, agents: list[AgentSpec]) -> dict[str, ArraySpec]:
    """The arrays that hold those of every agent."""
    result: dict[str, ArraySpec] = {}
    for key in dict.fromkeys(key for agent in agents for key in agent.observation):
        parts = [agent.observation[key] for agent in agents if key in agent.observation]
        if len({len(part.shape) for part in parts}) > 1:
            shapes = sorted({part.shape for part in parts})
            raise UserError(
                f"environment {name!r}: agents see {key!r} in shapes {shapes}; give it as many axes for all"
            )
        shape = tuple(max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True))
        same = all(part == parts[0] for part in parts)
        result[key] = parts[0] if same else _around(shape, parts)
    return result


def _around(shape: tuple[int, ...], parts: list[ArraySpec]) -> ArraySpec:
    """An array that holds any of several, and the zeros around the smaller ones."""
    lows, highs = [part.low for part in parts], [part.high for part in parts]
    return ArraySpec(
        shape=shape,
        dtype=np.result_type(*(part.dtype for part in parts)).name,
        low=None if None in lows else min(0.0, *(low for low in lows if low is not None)),
        high=None if None in highs else max(0.0, *(high for high in highs if high is not None)),
    )


def _common_action(name: str, actions: list[ActionSpec]) -> ActionSpec:
    """The action of all agents; those with fewer choices than others are masked."""
    if all(action.kind == "discrete" for action in actions):
        return discrete(max(action.choices[0] for action in actions))
    if any(action != actions[0] for action in actions):
        different = list(dict.fromkeys(actions))
        raise UserError(f"environment {name!r}: one policy can't act in both {different[0]} and {different[1]}")
    return actions[0]
