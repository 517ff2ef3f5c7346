"""Games for several agents as slots, every agent a slot of its own.

``Games`` plays: all copies of one game, as arrays. ``MultiAgentSlots`` holds the rules that every game shares: when a
game restarts, what an agent sees whose episode ended before the others', whose reward is whose, and what is wrong::

    actor > MultiAgentSlots.step > Games.play > (PettingZoo, or a game of machina.envs.games.table)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from machina.actions import checked_actions, native_actions, without_choice
from machina.envs.pictures import as_picture
from machina.errors import RAISED, EnvironmentFaultError, UserError, environment_fault
from machina.specs import EnvSpec
from machina.types import ACTION_MASK, Array, BoolArray, FloatArray, IntArray, StepResult, copies, section

MAX_SEED = 2**31
"""Seeds go to C libraries as signed integers of 32 bits."""


class Moment(NamedTuple):
    """What B slots see after a step; arrays ``[B, ...]``, new ones each time, zero for agents that are out."""

    observation: dict[str, Array]
    reward: FloatArray
    terminated: BoolArray
    """The task has just ended this agent's episode."""
    truncated: BoolArray
    """A limit did."""
    on_turn: BoolArray
    score: FloatArray | None = None
    """What decides the game, where that is not the reward."""

    @classmethod
    def blank(cls, spec: EnvSpec, num_slots: int) -> Moment:
        """Zeros, to be filled in; everybody on turn."""
        return cls(
            {key: np.zeros((num_slots, *part.shape), part.dtype) for key, part in spec.observation.items()},
            np.zeros(num_slots, np.float32),
            np.zeros(num_slots, np.bool_),
            np.zeros(num_slots, np.bool_),
            np.ones(num_slots, np.bool_),
        )


class Games(Protocol):
    """Copies of one game. The slots are those of game 0 in the order of its seats, then those of game 1, and so on."""

    @property
    def stepping(self) -> str:
        """Which game is being stepped, such as ``game 3``; empty when they step as one."""
        ...

    def play(self, actions: Array, begins: Mapping[int, int]) -> Moment:
        """Step every game once.

        A turn-based game advances by one turn.

        Args:
            actions: ``[B, *action.shape]`` as the environment takes them; 0 where an action counts for nothing.
            begins: games to restart instead, with the seed of each.
        """
        ...

    def picture(self) -> Array | None:
        """``[H, W, 3]`` uint8: game 0, in games built to be filmed; None from games that draw nothing."""
        ...

    def close(self) -> None:
        """Release everything, also while another thread is in ``play``."""
        ...


@runtime_checkable
class SavableGames(Protocol):
    """Games that can continue from the state of others."""

    def get_state(self) -> dict[str, Array]:
        """A copy of everything that the next moves depend on."""
        ...

    def set_state(self, state: Mapping[str, Array]) -> None:
        """Continue from ``get_state``."""
        ...


class MultiAgentSlots:
    """Games as ``machina.interfaces.SlotEnv``.

    A game ends when the episodes of all its agents have ended; the step after that begins the next one. An agent whose
    episode ends earlier repeats the flag of its end, with zeros for reward and observation, until the game is over.

    Args:
        games: what plays.
        spec: with seats.
        num_games: copies that play.
        max_steps: steps after which a game is truncated, or None.
    """

    def __init__(self, games: Games, spec: EnvSpec, num_games: int, max_steps: int | None = None) -> None:
        self.spec = spec
        self.task_ids: IntArray = np.array([seat.role for seat in spec.seats] * num_games, np.int64)
        self.never_hangs = bool(getattr(games, "never_hangs", False))
        self._games = games
        self._max_steps = max_steps
        self._num_slots = len(self.task_ids)
        self._num_games = num_games
        self._team_mean, self._enemy_mean = _team_means([seat.team for seat in spec.seats])
        self._first_choice = np.cumsum((0, *spec.action.choices[:-1]))
        self._steps: IntArray = np.zeros(self._num_games, np.int64)
        self._generators: list[np.random.Generator] = []
        self._entry: StepResult | None = None

    @property
    def waiting_for(self) -> str:
        """The environment's name, and the game that is being stepped."""
        return f"{self.spec.name} ({stepping})" if (stepping := self._games.stepping) else self.spec.name

    def reset(self, seeds: Sequence[int]) -> StepResult:
        """Begin every game; the seed of a game's first slot decides all that happens in it."""
        if len(seeds) != self._num_slots:
            raise ValueError(f"{self._num_slots} slots need as many seeds, got {len(seeds)}")
        of_games = [int(seed) for seed in seeds[:: len(self.spec.seats)]]
        self._generators = [np.random.default_rng(seed) for seed in of_games]
        self._entry = None
        nothing = np.zeros((self._num_slots, *self.spec.action.shape), self.spec.action.dtype)
        return self._play(nothing, {game: seed % MAX_SEED for game, seed in enumerate(of_games)})

    def step(self, actions: Array) -> StepResult:
        """Step every game; one that is over restarts instead."""
        entry = self._entry
        if entry is None:
            raise ValueError("reset comes before step")
        ended = entry.terminated | entry.truncated
        acts = entry.on_turn & ~ended
        actions = np.array(actions)
        if actions.shape[:1] == acts.shape:
            actions[~acts] = 0  # whatever stands there counts for nothing
        checked_actions(self.spec.action, actions, self._num_slots)
        self._check_mask(entry, actions, acts)
        over = ended.reshape(self._num_games, -1).all(axis=1)
        begins = {int(game): int(self._generators[game].integers(MAX_SEED)) for game in np.flatnonzero(over)}
        return self._play(native_actions(self.spec.action, actions), begins)

    def recover(self) -> StepResult | None:
        """None: a game has no parts to replace."""
        return None

    def stacks(self) -> str:
        """Nothing: games are stepped in this process."""
        return ""

    def get_state(self) -> Mapping[str, Array] | None:
        """A full copy of the games' state and of the current entry, or None when the games can't be saved."""
        entry = self._entry
        if entry is None or not isinstance(self._games, SavableGames):
            return None
        return {
            **{f"games/{key}": array for key, array in self._games.get_state().items()},
            **entry.state(),
            "steps": self._steps.copy(),
            "generators": np.stack([_generator_state(generator) for generator in self._generators]),
        }

    def set_state(self, state: Mapping[str, Array]) -> StepResult:
        """Restore ``get_state`` and return the current entry again.

        Raises:
            TypeError: the games can't be saved.
        """
        if not isinstance(self._games, SavableGames):
            raise TypeError(f"environment {self.spec.name!r} saves no state, got {sorted(state)}")
        self._games.set_state(copies(section(state, "games/")))
        self._steps = state["steps"].copy()
        self._generators = [_generator(row) for row in state["generators"]]
        self._entry = StepResult.from_state(state)
        return self._entry

    def render(self) -> Array:
        """``[H, W, 3]`` uint8: a picture of the first game, in environments made with ``make_for_video``.

        Raises:
            UserError: the game renders no picture, or the library that it draws with is not installed.
            EnvironmentFaultError: drawing failed.
        """
        name = self.spec.name
        try:
            picture = as_picture(self._games.picture())
        except ImportError as error:
            raise UserError(f"environment {name!r} can't be drawn: {error}; install what is missing") from error
        except RAISED as error:
            raise self._fault("render", error) from error
        if picture is None:
            raise UserError(f"environment {name!r} renders no picture; build it with render_mode='rgb_array'")
        return picture

    @property
    def render_fps(self) -> float | None:
        """Pictures per second that a PettingZoo environment states; the games shipped here say it in their table."""
        return getattr(self._games, "render_fps", None)

    def close(self) -> None:
        """Release everything at once, also while another thread hangs in ``step``."""
        self._games.close()

    def _play(self, actions: Array, begins: dict[int, int]) -> StepResult:
        try:
            moment = self._games.play(actions, begins)
        except RAISED as error:
            raise self._fault("step", error) from error
        begun = np.zeros(self._num_games, np.bool_)
        begun[list(begins)] = True
        self._steps = np.where(begun, 0, self._steps + 1)
        begun = begun.repeat(len(self.spec.seats))
        terminated, truncated = moment.terminated, moment.truncated
        ended = np.zeros_like(begun)  # before this step
        if self._entry is not None:
            ended = (self._entry.terminated | self._entry.truncated) & ~begun
            terminated = np.where(ended, self._entry.terminated, terminated)
            truncated = np.where(ended, self._entry.truncated, truncated)
        if self._max_steps is not None:
            cut = (self._steps >= self._max_steps).repeat(len(self.spec.seats))
            truncated = truncated | (cut & ~terminated)
        reward = np.where(begun | ended, np.float32(0), self._finite("reward", moment.reward))
        score = reward
        if moment.score is not None:
            score = np.where(begun | ended, np.float32(0), self._finite("score", moment.score))
        per_game = reward.reshape(self._num_games, -1)
        self._entry = StepResult(
            observation={key: self._finite(key, array) for key, array in moment.observation.items()},
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            life_lost=np.zeros_like(terminated),
            on_turn=moment.on_turn,
            team_reward=(per_game @ self._team_mean).reshape(-1),
            enemy_reward=(per_game @ self._enemy_mean).reshape(-1),
            score=score,
        )
        self._check_choice(self._entry)
        return self._entry

    def _check_mask(self, entry: StepResult, actions: Array, acts: BoolArray) -> None:
        mask = entry.observation.get(ACTION_MASK)
        if mask is None:
            return
        chosen = actions.reshape(self._num_slots, -1) + self._first_choice
        forbidden = acts & ~np.take_along_axis(mask, chosen, axis=1).all(axis=1)
        if forbidden.any():
            slot = int(np.argmax(forbidden))
            raise ValueError(f"action {actions[slot]} of {self._agent(slot)} is not allowed by its mask {mask[slot]}")

    def _check_choice(self, entry: StepResult) -> None:
        """An agent that is to act must have a choice."""
        mask = entry.observation.get(ACTION_MASK)
        if mask is None:
            return
        helpless = without_choice(self.spec.action, mask)
        helpless &= entry.on_turn & ~(entry.terminated | entry.truncated)
        if helpless.any():
            agent = self._agent(int(np.argmax(helpless)))
            raise EnvironmentFaultError(f"environment {self.spec.name!r}: no action is allowed to {agent} on its turn")

    def _finite(self, field: str, array: Array) -> Array:
        # The sum shows NaN and infinity in a fraction of the time of a look at every number.
        with np.errstate(over="ignore", invalid="ignore"):
            suspect = np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array.sum())
        if suspect:
            finite = np.isfinite(array).reshape(self._num_slots, -1).all(axis=1)
            if not finite.all():
                agent = self._agent(int(np.argmin(finite)))
                raise EnvironmentFaultError(f"environment {self.spec.name!r}: {field} of {agent} is not finite")
        return array

    def _agent(self, slot: int) -> str:
        game, seat = divmod(slot, len(self.spec.seats))
        return f"{self.spec.seats[seat].agent} in game {game}"

    def _fault(self, call: str, error: BaseException) -> EnvironmentFaultError:
        if isinstance(error, EnvironmentFaultError):
            return error
        return environment_fault(self.spec.name, self.waiting_for, call, error)


def _generator_state(generator: np.random.Generator) -> Array:
    """``[6]`` uint64: numpy's default generator (PCG64), whose numbers of 128 bits take two places each."""
    state = generator.bit_generator.state
    wide = [state["state"][name] for name in ("state", "inc")]
    halves = [half for number in wide for half in divmod(number, 2**64)]
    return np.array([*halves, state["has_uint32"], state["uinteger"]], np.uint64)


def _generator(state: Array) -> np.random.Generator:
    """The inverse of ``_generator_state``."""
    high, low, increment_high, increment_low, has_uint32, uinteger = (int(number) for number in state)
    generator = np.random.default_rng(0)
    wide = {"state": high * 2**64 + low, "inc": increment_high * 2**64 + increment_low}
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": wide,
        "has_uint32": has_uint32,
        "uinteger": uinteger,
    }
    return generator


def _team_means(teams: Sequence[int]) -> tuple[FloatArray, FloatArray]:
    """``[S, S]`` each: rewards ``[..., S]`` times these are means over the agent's own team and over all other
    teams."""
    own = np.equal.outer(teams, teams)
    sizes = own.sum(axis=0)
    others = np.maximum(len(teams) - sizes, 1)  # without others there is nothing to divide
    return (own / sizes).astype(np.float32), (~own / others).astype(np.float32)
