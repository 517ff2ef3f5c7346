"""Any PettingZoo environment, parallel or turn-based (AEC), as games.

Its name is ``pettingzoo:ID``, a module such as ``mpe2.simple_spread_v3``, or ``module:parallel_env`` or ``module:env``.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from gymnasium import spaces

from machina.envs.actions import action_spec
from machina.envs.multi_agent import Moment
from machina.envs.slots import observation_specs
from machina.errors import UserError, nearest, told
from machina.plugins import load_module
from machina.specs import ActionSpec, ArraySpec, EnvSpec, Seat, discrete
from machina.types import ACTION_MASK, OBSERVATION, Array

FUNCTIONS = ("parallel_env", "env")
"""What a PettingZoo module calls the functions that build its environment; the first is preferred."""

AnyGame = Any
"""A PettingZoo environment; parallel ones and turn-based ones have no base class in common."""

Space = spaces.Space[Any]
Teams = Literal["names", "agents"]


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
    except Exception as error:
        raise UserError(f"environment {name!r} can't be built: {told(error)}") from error
    if not isinstance(env, (AECEnv, ParallelEnv)):
        raise UserError(f"environment {name!r} must be a PettingZoo AECEnv or ParallelEnv, got {type(env).__name__}")
    if not getattr(env, "possible_agents", None):
        raise UserError(f"environment {name!r} doesn't say who may play; give it possible_agents")
    return env


def make_games(name: str, spec: EnvSpec, num_games: int, for_video: bool) -> ParallelGames | AecGames:
    """``num_games`` copies of the environment.

    Raises:
        UserError: it can't be built.
    """
    from pettingzoo import AECEnv

    options = {"render_mode": "rgb_array"} if for_video else {}
    envs = [build(name, **options) for _ in range(num_games)]
    return AecGames(envs, spec) if isinstance(envs[0], AECEnv) else ParallelGames(envs, spec)


def read_spec(name: str, teams: Teams, protocol: dict[str, str | int | float | bool]) -> EnvSpec:
    """What the agents of an environment see and do, padded to the largest of them.

    Agents whose names agree before the last ``_`` are one role, if their spaces agree as well.

    Args:
        name: of the environment.
        teams: "names": agents whose names agree before the last ``_`` are one team; "agents": each is its own.
        protocol: for the spec.

    Raises:
        UserError: spaces that can't be trained on, or that can't be those of one policy.
    """
    env = build(name)
    try:
        agents = [_AgentSpec.read(name, env, agent) for agent in env.possible_agents]
    finally:
        env.close()
    kinds = list(dict.fromkeys(agent.kind for agent in agents))
    names = list(dict.fromkeys(agent.group for agent in agents))
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
            Seat(
                agent=agent.name,
                role=kinds.index(agent.kind),
                team=names.index(agent.group) if teams == "names" else index,
            )
            for index, agent in enumerate(agents)
        ),
        observation=observation,
        action=_common_action(name, actions),
        protocol={**protocol, "teams": teams},
    )


class _AgentSpec(NamedTuple):
    """What one agent sees and does."""

    name: str
    observation: dict[str, ArraySpec]
    action: ActionSpec
    masked: bool

    @classmethod
    def read(cls, name: str, env: AnyGame, agent: Any) -> _AgentSpec:
        space = env.observation_space(agent)
        masked = isinstance(space, spaces.Dict) and ACTION_MASK in space.spaces
        if masked:
            rest = {key: part for key, part in space.spaces.items() if key != ACTION_MASK}
            space = rest[OBSERVATION] if rest.keys() == {OBSERVATION} else spaces.Dict(rest)
        action = action_spec(name, env.action_space(agent))
        if masked and action.kind == "continuous":
            raise UserError(f"environment {name!r}: {agent} has an action mask but continuous actions {action}")
        return cls(str(agent), observation_specs(name, space), action, masked)

    @property
    def group(self) -> str:
        """Its name before the last ``_``."""
        return self.name.rpartition("_")[0] or self.name

    @property
    def kind(self) -> tuple[Any, ...]:
        """Equal for agents of one role."""
        return self.group, tuple(self.observation.items()), self.action, self.masked


def _padded(name: str, agents: list[_AgentSpec]) -> dict[str, ArraySpec]:
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
        result[key] = ArraySpec(shape=shape, dtype=np.result_type(*(part.dtype for part in parts)).name)
    return result


def _common_action(name: str, actions: list[ActionSpec]) -> ActionSpec:
    """The action of all agents; those with fewer choices than others are masked."""
    if all(action.kind == "discrete" for action in actions):
        return discrete(max(action.choices[0] for action in actions))
    if any(action != actions[0] for action in actions):
        different = list(dict.fromkeys(actions))
        raise UserError(f"environment {name!r}: one policy can't answer both {different[0]} and {different[1]}")
    return actions[0]


class _Seats:
    """Carries what agents see into a moment's arrays, and actions out to the agents."""

    def __init__(self, env: AnyGame, spec: EnvSpec) -> None:
        self.spec = spec
        self.agents = list(env.possible_agents)
        self.seat_of = {agent: seat for seat, agent in enumerate(self.agents)}
        read = [_AgentSpec.read(spec.name, env, agent) for agent in self.agents]
        self._shapes = [{key: part.shape for key, part in agent.observation.items()} for agent in read]
        self._corners = [
            {key: _corner(shape, spec.observation[key].shape) for key, shape in shapes.items()}
            for shapes in self._shapes
        ]
        self._choices = [agent.action.num_parameters for agent in read]
        self._masked = [agent.masked for agent in read]
        self._has_mask = ACTION_MASK in spec.observation
        boxes = [env.action_space(agent) for agent in self.agents]
        self._box_shape = boxes[0].shape if isinstance(boxes[0], spaces.Box) else None

    def see(self, moment: Moment, slot: int, seat: int, observation: Any) -> None:
        """Write what one agent sees.

        Raises:
            ValueError: another shape or other keys than its space has.
        """
        parts = observation if isinstance(observation, Mapping) else {OBSERVATION: observation}
        shapes, corners = self._shapes[seat], self._corners[seat]
        if len(parts) != len(shapes) + self._masked[seat]:
            raise ValueError(f"{self.agents[seat]} sees {sorted(parts)}, its space has {sorted(shapes)}")
        for key, shape in shapes.items():
            part = np.asarray(parts[key])
            if part.shape != shape:
                raise ValueError(f"{key} of {self.agents[seat]} has shape {part.shape}, its space has {shape}")
            place: tuple[int | slice, ...] = (slot, *corners[key])
            moment.observation[key][place] = part
        if self._has_mask:
            allowed = np.asarray(parts[ACTION_MASK], np.bool_) if self._masked[seat] else True
            moment.observation[ACTION_MASK][slot, : self._choices[seat]] = allowed

    def native(self, action: Any) -> Any:
        """One action as the environment takes it."""
        if self._box_shape is not None:
            return action.reshape(self._box_shape)
        return action if self.spec.action.shape else int(action)


def _corner(shape: tuple[int, ...], padded: tuple[int, ...]) -> tuple[slice, ...]:
    """Where an array of ``shape`` lies in one of ``padded``."""
    return () if shape == padded else tuple(slice(0, size) for size in shape)


class ParallelGames:
    """Copies of a PettingZoo parallel environment."""

    def __init__(self, envs: list[AnyGame], spec: EnvSpec) -> None:
        self._envs = envs
        self._spec = spec
        self._seats = _Seats(envs[0], spec)
        self._playing: list[list[Any]] = [[] for _ in envs]
        """The agents of each game whose episodes go on."""
        self.stepping = ""

    def play(self, actions: Array, begins: Mapping[int, int]) -> Moment:
        """One step of every game."""
        seats = len(self._spec.seats)
        moment = Moment.blank(self._spec, len(self._envs) * seats)
        for game, env in enumerate(self._envs):
            self.stepping = f"game {game}"
            if (seed := begins.get(game)) is not None:
                self._begin(moment, game, env.reset(seed=seed)[0])
            else:
                self._step(moment, game, env, actions[game * seats : (game + 1) * seats])
        return moment

    def _begin(self, moment: Moment, game: int, observations: Mapping[Any, Any]) -> None:
        self._playing[game] = [agent for agent in self._seats.agents if agent in observations]
        for seat, agent in enumerate(self._seats.agents):
            slot = game * len(self._spec.seats) + seat
            if agent in observations:
                self._seats.see(moment, slot, seat, observations[agent])
            else:
                moment.terminated[slot] = True  # not in this game

    def _step(self, moment: Moment, game: int, env: AnyGame, actions: Array) -> None:
        playing, seat_of, first = self._playing[game], self._seats.seat_of, game * len(self._spec.seats)
        observations, rewards, terminations, truncations, _ = env.step(
            {agent: self._seats.native(actions[seat_of[agent]]) for agent in playing}
        )
        survivors = []
        for agent in playing:
            seat = seat_of[agent]
            slot = first + seat
            self._seats.see(moment, slot, seat, observations[agent])
            moment.reward[slot] = rewards[agent]
            if terminations[agent] or truncations[agent]:
                moment.terminated[slot], moment.truncated[slot] = terminations[agent], truncations[agent]
            else:
                survivors.append(agent)
        self._playing[game] = survivors

    def picture(self) -> Array | None:
        """Game 0 as the environment draws it."""
        return self._envs[0].render()  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()


class AecGames:
    """Copies of a PettingZoo turn-based environment.

    An agent's reward is told as soon as it arrives, on turn or off. What an environment owes an agent is what ``last``
    shows it when its turn comes, so whatever has not been told by then is told there: rewards add up to those of
    PettingZoo's own loop whichever way an environment keeps its books. An episode ends at the agent's dead step.
    """

    def __init__(self, envs: list[AnyGame], spec: EnvSpec) -> None:
        self._envs = envs
        self._spec = spec
        self._seats = _Seats(envs[0], spec)
        self._told = np.zeros((len(envs), len(spec.seats)))
        """Rewards told to each agent since its last turn."""
        self.stepping = ""

    def play(self, actions: Array, begins: Mapping[int, int]) -> Moment:
        """One turn of every game."""
        seats = len(self._spec.seats)
        moment = Moment.blank(self._spec, len(self._envs) * seats)
        moment.on_turn[:] = False
        for game, env in enumerate(self._envs):
            self.stepping = f"game {game}"
            if (seed := begins.get(game)) is not None:
                self._begin(moment, game, env, seed)
            else:
                self._take_turn(moment, game, env, actions[game * seats : (game + 1) * seats])
            self._find_turn(moment, game, env)
        return moment

    def _begin(self, moment: Moment, game: int, env: AnyGame, seed: int) -> None:
        env.reset(seed=seed)
        self._told[game] = 0
        for seat, agent in enumerate(self._seats.agents):
            moment.terminated[game * len(self._spec.seats) + seat] = agent not in env.agents  # not in this game

    def _take_turn(self, moment: Moment, game: int, env: AnyGame, actions: Array) -> None:
        env.step(self._seats.native(actions[self._seats.seat_of[env.agent_selection]]))
        for agent, reward in env.rewards.items():
            self._tell(moment, game, agent, reward)

    def _find_turn(self, moment: Moment, game: int, env: AnyGame) -> None:
        """Take the steps of the dead, show everybody the game, and find whose turn it is."""
        first = game * len(self._spec.seats)
        for _ in range(len(self._spec.seats) + 1):
            if not env.agents:
                return
            agent = env.agent_selection
            seat = self._seats.seat_of[agent]
            self._tell(moment, game, agent, env._cumulative_rewards[agent] - self._told[game, seat])
            self._told[game, seat] = 0
            if not (env.terminations[agent] or env.truncations[agent]):
                moment.on_turn[first + seat] = True
                break
            moment.terminated[first + seat] = env.terminations[agent]
            moment.truncated[first + seat] = env.truncations[agent]
            self._seats.see(moment, first + seat, seat, env.observe(agent))
            env.step(None)
        else:
            raise RuntimeError(f"{env.agent_selection} is dead but never leaves the game")
        for agent in env.agents:
            seat = self._seats.seat_of[agent]
            self._seats.see(moment, first + seat, seat, env.observe(agent))

    def _tell(self, moment: Moment, game: int, agent: Any, reward: float) -> None:
        seat = self._seats.seat_of[agent]
        moment.reward[game * len(self._spec.seats) + seat] += reward
        self._told[game, seat] += reward

    def picture(self) -> Array | None:
        """Game 0 as the environment draws it."""
        return self._envs[0].render()  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()
