"""Any PettingZoo environment, parallel or turn-based (AEC), as games."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from machina.envs.multi_agent import Moment
from machina.envs.pettingzoo_envs import AgentSpec, AnyGame, build
from machina.envs.pictures import stated_fps
from machina.specs import EnvSpec
from machina.types import ACTION_MASK, OBSERVATION, Array


def make_games(name: str, spec: EnvSpec, num_games: int, for_video: bool) -> ParallelGames | AecGames:
    """``num_games`` copies of the environment.

    Raises:
        UserError: it can't be built.
    """
    from pettingzoo import AECEnv

    options = {"render_mode": "rgb_array"} if for_video else {}
    envs = [build(name, **options) for _ in range(num_games)]
    return AecGames(envs, spec) if isinstance(envs[0], AECEnv) else ParallelGames(envs, spec)


class _Seats:
    """Carries what agents see into a moment's arrays, and actions out to the agents."""

    def __init__(self, env: AnyGame, spec: EnvSpec) -> None:
        self.spec = spec
        self.agents = list(env.possible_agents)
        self.seat_of = {agent: seat for seat, agent in enumerate(self.agents)}
        read = [AgentSpec.read(spec.name, env, agent) for agent in self.agents]
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

    def check_begin(self, infos: Mapping[Any, Mapping[str, Any]]) -> None:
        """Refuse action masks that the policy would not see.

        Raises:
            ValueError: a mask is not in the observation, where that of every game is looked for.
        """
        for agent, masked in zip(self.agents, self._masked, strict=True):
            if not masked and ACTION_MASK in infos.get(agent, {}):
                raise ValueError(
                    f"the {ACTION_MASK} of {agent} is in its infos; put it into the observation, a Dict of "
                    f"{OBSERVATION!r} and {ACTION_MASK!r}"
                )

    def native(self, action: Any) -> Any:
        """One action as the environment takes it."""
        if self._box_shape is not None:
            return action.reshape(self._box_shape)
        return action if self.spec.action.shape else int(action)


def _corner(shape: tuple[int, ...], padded: tuple[int, ...]) -> tuple[slice, ...]:
    """Where an array of ``shape`` lies in one of ``padded``."""
    return () if shape == padded else tuple(slice(0, size) for size in shape)


def _check_nobody_joined(alive: Sequence[Any], playing: Collection[Any]) -> None:
    """Raises ValueError when an agent plays that had left, or was not there at the reset."""
    if joined := [agent for agent in alive if agent not in playing]:
        raise ValueError(f"{joined[0]} joined a game under way; agents must be there from the reset to their end")


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
                self._begin(moment, game, *env.reset(seed=seed))
            else:
                self._step(moment, game, env, actions[game * seats : (game + 1) * seats])
        return moment

    def _begin(self, moment: Moment, game: int, observations: Mapping[Any, Any], infos: Mapping[Any, Any]) -> None:
        self._seats.check_begin(infos)
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
            if missing := [
                what
                for what, given in (
                    ("observation", observations),
                    ("reward", rewards),
                    ("termination", terminations),
                    ("truncation", truncations),
                )
                if agent not in given
            ]:
                raise ValueError(f"the step gave no {missing[0]} of {agent}")
            seat = seat_of[agent]
            slot = first + seat
            self._seats.see(moment, slot, seat, observations[agent])
            moment.reward[slot] = rewards[agent]
            if terminations[agent] or truncations[agent]:
                moment.terminated[slot], moment.truncated[slot] = terminations[agent], truncations[agent]
            else:
                survivors.append(agent)
        # Some environments go on listing agents that have left.
        alive = [agent for agent in env.agents if not (terminations.get(agent, True) or truncations.get(agent, True))]
        _check_nobody_joined(alive, survivors)
        self._playing[game] = survivors

    def picture(self) -> Array | None:
        """Game 0 as the environment draws it."""
        return self._envs[0].render()  # type: ignore[no-any-return]

    @property
    def render_fps(self) -> float | None:
        """Pictures per second that the environment states."""
        return stated_fps(self._envs[0].metadata)

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
        self._playing: list[list[Any]] = [[] for _ in envs]
        """The agents of each game whose episodes go on."""
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
        self._seats.check_begin(env.infos)
        self._playing[game] = list(env.agents)
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
        _check_nobody_joined(env.agents, self._playing[game])
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
            self._playing[game].remove(agent)
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

    @property
    def render_fps(self) -> float | None:
        """Pictures per second that the environment states."""
        return stated_fps(self._envs[0].metadata)

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()
