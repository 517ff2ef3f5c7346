"""Any PettingZoo environment, parallel or turn-based (AEC), as games."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from machina.envs.declared import as_declared, as_flag, as_number, close_in_time
from machina.envs.games.multi_agent import Moment
from machina.envs.games.pettingzoo_oddities import AsTold, reading
from machina.envs.games.pettingzoo_specs import AgentSpec, AnyGame, build_several
from machina.envs.observations import as_mask
from machina.envs.pictures import stated_fps
from machina.specs import EnvSpec
from machina.types import ACTION_MASK, OBSERVATION, Array


def make_games(name: str, spec: EnvSpec, num_games: int, for_video: bool) -> ParallelGames | AecGames:
    """``num_games`` copies of the environment.

    Raises:
        UserError: it can't be built.
    """
    from pettingzoo import AECEnv

    envs = build_several(name, num_games, for_video=for_video)
    return AecGames(envs, spec) if isinstance(envs[0], AECEnv) else ParallelGames(envs, spec)


class _Names(NamedTuple):
    """What an agent receives, for messages."""

    observation: str
    reward: str
    termination: str
    truncation: str


class _Seats:
    """Carries what agents see into a moment's arrays, and actions out to the agents."""

    def __init__(self, env: AnyGame, spec: EnvSpec) -> None:
        self.spec = spec
        self.agents = list(env.possible_agents)
        self.seat_of = {agent: seat for seat, agent in enumerate(self.agents)}
        self._read = [AgentSpec.read(spec.name, env, agent) for agent in self.agents]
        self._corners = [
            {key: _corner(part.shape, spec.observation[key].shape) for key, part in agent.observation.items()}
            for agent in self._read
        ]
        self._has_mask = ACTION_MASK in spec.observation
        self._plain = [isinstance(env.observation_space(agent), spaces.Box) for agent in self.agents]
        """Whether what an agent sees is one array as it comes: with many agents the short way counts."""
        self._spaces = [env.observation_space(agent) for agent in self.agents]
        self._names = {
            agent: _Names(*(f"environment {spec.name!r}: {what} of {agent}" for what in _Names._fields))
            for agent in self.agents
        }
        boxes = [env.action_space(agent) for agent in self.agents]
        self._box_shape = boxes[0].shape if isinstance(boxes[0], spaces.Box) else None

    def see(self, moment: Moment, slot: int, seat: int, observation: Any) -> None:
        """Write what one agent sees.

        Raises:
            EnvironmentFaultError: its space declares something else.
            ValueError: its mask holds more than 0 and 1.
        """
        observation = as_declared(self._spaces[seat], observation, self._names[self.agents[seat]].observation)
        agent, corners = self._read[seat], self._corners[seat]
        parts = {OBSERVATION: observation} if self._plain[seat] else agent.arrays(observation)
        for key, part in parts.items():
            place: tuple[int | slice, ...] = (slot, *corners[key])
            moment.observation[key][place] = part
        if self._has_mask:
            allowed = as_mask(observation[ACTION_MASK]) if agent.masked else True
            moment.observation[ACTION_MASK][slot, : agent.action.num_parameters] = allowed

    def reward(self, agent: Any, value: Any) -> float:
        """A reward, as a number."""
        return as_number(value, self._names[agent].reward)

    def ends(self, agent: Any, terminated: Any, truncated: Any) -> tuple[bool, bool]:
        """Both flags, as truth values."""
        if type(terminated) is type(truncated) is bool:
            return terminated, truncated
        names = self._names[agent]
        return as_flag(terminated, names.termination), as_flag(truncated, names.truncation)

    def check_begin(self, infos: Mapping[Any, Mapping[str, Any]]) -> None:
        """Refuse action masks that the policy would not see.

        Raises:
            ValueError: a mask is not in the observation, where that of every game is looked for.
        """
        for agent, read in zip(self.agents, self._read, strict=True):
            if not read.masked and ACTION_MASK in infos.get(agent, {}):
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


class _PettingZooGames:
    """What parallel and turn-based games share.

    Args:
        envs: copies of one environment.
        spec: as ``machina.envs.games.pettingzoo_specs.read_spec`` returns.
    """

    def __init__(self, envs: list[AnyGame], spec: EnvSpec) -> None:
        self._envs = envs
        self._spec = spec
        self._readings: list[AsTold] = [reading(env) for env in envs]
        self._seats = _Seats(envs[0], spec)
        self._playing: list[list[Any]] = [[] for _ in envs]
        """The agents of each game whose episodes continue."""
        self.stepping = ""

    def _slot(self, game: int, agent: Any) -> int:
        return game * len(self._spec.seats) + self._seats.seat_of[agent]

    def _end(self, moment: Moment, game: int, agent: Any, terminated: bool, truncated: bool) -> None:
        """Write why an agent's episode has ended; without a word from the environment its game is over."""
        if terminated and not truncated and self._readings[game].is_limit(agent):
            terminated, truncated = False, True
        slot = self._slot(game, agent)
        moment.terminated[slot], moment.truncated[slot] = terminated or not truncated, truncated

    def _scored(self, moment: Moment) -> Moment:
        return moment._replace(score=self._readings[0].score(moment.reward))

    def picture(self) -> Array | None:
        """Game 0 as the environment draws it."""
        return self._envs[0].render()  # type: ignore[no-any-return]

    @property
    def render_fps(self) -> float | None:
        """Pictures per second that the environment states."""
        return stated_fps(self._envs[0].metadata)

    def close(self) -> None:
        """Close the environments, each of them, whatever one raises and wherever one hangs."""
        for env in self._envs:
            close_in_time(env.close, self._spec.name)


class ParallelGames(_PettingZooGames):
    """Copies of a PettingZoo parallel environment.

    An agent's episode ends with its flag, or when the environment no longer lists the agent among ``agents``: some
    end a game by emptying that list. An agent that has ended need not see anything more, unless a limit cut it: what
    would have come is estimated from what it sees then.
    """

    def play(self, actions: Array, begins: Mapping[int, int]) -> Moment:
        """One step of every game."""
        seats = len(self._spec.seats)
        moment = Moment.blank(self._spec, len(self._envs) * seats)
        for game, env in enumerate(self._envs):
            self.stepping = f"game {game}"
            if (seed := begins.get(game)) is not None:
                self._begin(moment, game, *self._readings[game].reset(seed))
            else:
                self._step(moment, game, env, actions[game * seats : (game + 1) * seats])
        return self._scored(moment)

    def _begin(self, moment: Moment, game: int, observations: Mapping[Any, Any], infos: Mapping[Any, Any]) -> None:
        self._seats.check_begin(infos)
        self._playing[game] = [agent for agent in self._seats.agents if agent in observations]
        for seat, agent in enumerate(self._seats.agents):
            slot = self._slot(game, agent)
            if agent in observations:
                self._seats.see(moment, slot, seat, observations[agent])
            else:
                moment.terminated[slot] = True  # not in this game

    def _step(self, moment: Moment, game: int, env: AnyGame, actions: Array) -> None:
        playing, seat_of = self._playing[game], self._seats.seat_of
        answer = env.step({agent: self._seats.native(actions[seat_of[agent]]) for agent in playing})
        observations, paid, terminations, truncations, _ = answer
        rewards = self._readings[game].rewards(paid)
        listed = set(env.agents)
        survivors = []
        for agent in playing:
            slot = self._slot(game, agent)
            if agent not in listed and not any(agent in part for part in answer[:4]):
                moment.terminated[slot] = True  # gone without a word
                continue
            flags = terminations.get(agent, False), truncations.get(agent, False)
            terminated, truncated = self._seats.ends(agent, *flags)
            ended = terminated or truncated or agent not in listed
            needed = (truncated or not ended, True, agent in listed, agent in listed)
            if missing := _missing(agent, answer, needed):
                raise ValueError(f"the step gave no {missing} of {agent}")
            if agent in observations:
                self._seats.see(moment, slot, seat_of[agent], observations[agent])
            moment.reward[slot] = self._seats.reward(agent, rewards[agent])
            if ended:
                self._end(moment, game, agent, terminated, truncated)
            else:
                survivors.append(agent)
        # Some environments keep listing agents that have left.
        alive = [agent for agent in env.agents if not (terminations.get(agent, True) or truncations.get(agent, True))]
        _check_nobody_joined(alive, survivors)
        self._playing[game] = survivors


def _missing(agent: Any, answer: Sequence[Mapping[Any, Any]], needed: Sequence[bool]) -> str:
    """What a parallel step should have returned for an agent and did not; empty when nothing is missing.

    Args:
        agent: in the game before the step.
        answer: observations, rewards, terminations, truncations.
        needed: whether each of them is.
    """
    for name, part, need in zip(("observation", "reward", "termination", "truncation"), answer, needed, strict=False):
        if need and agent not in part:
            return name
    return ""


class AecGames(_PettingZooGames):
    """Copies of a PettingZoo turn-based environment.

    An agent's reward is passed on as soon as it arrives, on turn or off. What an environment owes an agent is what
    ``last`` shows it when its turn comes, so whatever has not been passed on by then is paid there: rewards add up to
    those of PettingZoo's own loop whichever way an environment keeps its books. An episode ends at the agent's dead
    step, or when the environment no longer lists the agent among ``agents``: some end a game by emptying that list.
    """

    def __init__(self, envs: list[AnyGame], spec: EnvSpec) -> None:
        super().__init__(envs, spec)
        self._paid = np.zeros((len(envs), len(spec.seats)))
        """Rewards passed on to each agent since its last turn."""

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
        return self._scored(moment)

    def _begin(self, moment: Moment, game: int, env: AnyGame, seed: int) -> None:
        self._readings[game].reset(seed)
        self._seats.check_begin(env.infos)
        self._playing[game] = list(env.agents)
        self._paid[game] = 0
        for agent in self._seats.agents:
            moment.terminated[self._slot(game, agent)] = agent not in env.agents  # not in this game

    def _take_turn(self, moment: Moment, game: int, env: AnyGame, actions: Array) -> None:
        env.step(self._seats.native(actions[self._seats.seat_of[env.agent_selection]]))
        for agent, reward in env.rewards.items():
            self._pay(moment, game, agent, self._seats.reward(agent, reward))

    def _find_turn(self, moment: Moment, game: int, env: AnyGame) -> None:
        """Take the steps of the dead, show everybody the game, and find whose turn it is."""
        _check_nobody_joined(env.agents, self._playing[game])
        for _ in range(len(self._spec.seats) + 1):
            for agent in [agent for agent in self._playing[game] if agent not in env.agents]:
                self._leave(moment, game, env, agent)
            if not env.agents:
                return
            agent = env.agent_selection
            if not (env.terminations[agent] or env.truncations[agent]):
                self._settle(moment, game, agent)
                moment.on_turn[self._slot(game, agent)] = True
                break
            self._leave(moment, game, env, agent)
            env.step(None)
        else:
            raise RuntimeError(f"{env.agent_selection} is dead but never leaves the game")
        for agent in env.agents:
            self._seats.see(moment, self._slot(game, agent), self._seats.seat_of[agent], env.observe(agent))

    def _leave(self, moment: Moment, game: int, env: AnyGame, agent: Any) -> None:
        """End an agent's episode."""
        flags = env.terminations.get(agent, False), env.truncations.get(agent, False)
        terminated, truncated = self._seats.ends(agent, *flags)
        self._settle(moment, game, agent)
        self._end(moment, game, agent, terminated, truncated)
        if terminated or truncated:
            self._seats.see(moment, self._slot(game, agent), self._seats.seat_of[agent], env.observe(agent))
        self._playing[game].remove(agent)

    def _settle(self, moment: Moment, game: int, agent: Any) -> None:
        """Pay what an agent is owed since its last turn."""
        seat = self._seats.seat_of[agent]
        paid = self._paid[game, seat]
        self._pay(moment, game, agent, self._readings[game].owed(agent, paid) - paid)
        self._paid[game, seat] = 0

    def _pay(self, moment: Moment, game: int, agent: Any, reward: float) -> None:
        moment.reward[self._slot(game, agent)] += reward
        self._paid[game, self._seats.seat_of[agent]] += reward
