"""The shipped games for several agents, and the factory of these and of PettingZoo's environments."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from machina.config import Config
from machina.envs.config import GameConfig
from machina.envs.games.teams import BY_NAME
from machina.errors import UserError
from machina.interfaces import SlotEnv
from machina.specs import ActionSpec, ArraySpec, EnvSpec, Seat, discrete
from machina.types import ACTION_MASK, OBSERVATION

if TYPE_CHECKING:
    from machina.envs.games.multi_agent import Games


class Game(NamedTuple):
    """One shipped game."""

    summary: str
    roles: tuple[str, ...]
    seats: tuple[Seat, ...]
    observation: dict[str, ArraySpec]
    action: ActionSpec
    make: Callable[[int, EnvSpec, bool], Games]
    """Takes the number of games, the spec, and whether they are to be filmed."""
    max_steps: int | None
    """After which a game is truncated; None where the rules end it soon."""
    modules: tuple[str, ...] = ()
    """That the extra ``league`` installs."""
    frame_stack: int = 1
    frames_per_step: int = 1
    pictures_per_s: float = 15.0
    """At which a film of it is watched."""


def _connect_four(num_games: int, spec: EnvSpec, for_video: bool) -> Games:  # noqa: ARG001 (it can always be drawn)
    from machina.envs.games.connect_four import ConnectFour

    return ConnectFour(num_games, spec)


def _simple_tag(num_games: int, spec: EnvSpec, for_video: bool) -> Games:
    from machina.envs.games.simple_tag import SimpleTag

    return SimpleTag(num_games, spec, for_video)


def _battle(num_games: int, spec: EnvSpec, for_video: bool) -> Games:
    from machina.envs.games.battle import Battle

    return Battle(num_games, spec, for_video)


def _pong_duel(num_games: int, spec: EnvSpec, for_video: bool) -> Games:  # noqa: ARG001 (it can always be drawn)
    from machina.envs.games.pong_duel import PongDuel

    return PongDuel(num_games, spec)


def _team(name: str, size: int, role: int, team: int, par: float = 0.0) -> tuple[Seat, ...]:
    return tuple(Seat(agent=f"{name}_{i}", role=role, team=team, par=par) for i in range(size))


_CATCHES = 20.0
"""Two catches of 10 points: what simple_tag's sides are measured against, as the hunters' return is never negative and
the prey's never positive. Hunters that move at random get 6 points against random prey, the scripted ones 53."""

GAMES: dict[str, Game] = {
    "connect_four": Game(
        summary="four in a row; two players in turn, action masks",
        roles=("player",),
        seats=(*_team("player", 1, role=0, team=0), Seat(agent="player_1", role=0, team=1)),
        observation={
            OBSERVATION: ArraySpec(shape=(6, 7, 2), dtype="int8"),
            ACTION_MASK: ArraySpec(shape=(7,), dtype="bool"),
        },
        action=discrete(7),
        make=_connect_four,
        max_steps=None,
        pictures_per_s=2.0,
    ),
    "simple_tag": Game(
        summary="three slow adversaries hunt a fast agent; two roles, observed as a set of units",
        roles=("adversary", "agent"),
        seats=(*_team("adversary", 3, role=0, team=0, par=_CATCHES), *_team("agent", 1, role=1, team=1, par=-_CATCHES)),
        observation={
            "self": ArraySpec(shape=(4,), dtype="float32"),
            "units": ArraySpec(shape=(5, 7), dtype="float32"),
        },
        action=discrete(5),
        make=_simple_tag,
        max_steps=25,
        modules=("mpe2",),
        pictures_per_s=10.0,
    ),
    "battle": Game(
        summary="six against six on a map of 16 x 16; agents that are out stay out",
        roles=("fighter",),
        seats=(*_team("red", 6, role=0, team=0), *_team("blue", 6, role=0, team=1)),
        observation={OBSERVATION: ArraySpec(shape=(13, 13, 5), dtype="float32")},
        action=discrete(21),
        make=_battle,
        max_steps=200,
        modules=("magent2",),
    ),
    "pong_duel": Game(
        summary="Pong for two from pixels; each sees itself on the right",
        roles=("player",),
        seats=(Seat(agent="first_0", role=0, team=0), Seat(agent="second_0", role=0, team=1)),
        observation={OBSERVATION: ArraySpec(shape=(4, 84, 84), dtype="uint8")},
        action=discrete(6),
        make=_pong_duel,
        max_steps=5_000,
        modules=("multi_agent_ale_py", "pygame"),
        frame_stack=4,
        frames_per_step=4,
    ),
}
"""By name. Limits: simple_tag's is mpe2's own; battle's is several times as long as a fight between players that seek
one; pong_duel's is six minutes of play, against rallies that never end."""


def is_game(name: str) -> bool:
    """Whether ``name`` is a game for several agents: a shipped one or one of PettingZoo's."""
    if name in GAMES:
        return True
    module, _, function = name.rpartition(":")
    if module:
        return module == "pettingzoo" or function in ("parallel_env", "env")
    return re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", name) is not None


class GameFactory(Config):
    """Builds games for several agents."""

    spec: EnvSpec
    max_steps: int | None

    def make(self, task_ids: Sequence[int], progress: Callable[[int], None] | None = None) -> SlotEnv:
        """One slot per entry of ``task_ids``.

        Raises:
            ValueError: ``task_ids`` are not the roles of whole games.
            UserError: the environment can't be built.
        """
        seats = len(self.spec.seats)
        num_games, rest = divmod(len(task_ids), seats)
        if not num_games or rest or [self.spec.task_of(i) for i in range(len(task_ids))] != list(task_ids):
            raise ValueError(f"environment {self.spec.name!r}: {seats} slots to a game, in the order of its seats")
        env = self._make(num_games, for_video=False)
        if progress is not None:
            progress(len(task_ids))
        return env

    def make_for_video(self, task_id: int) -> SlotEnv:  # noqa: ARG002 (every role is in the one game)
        """One game that can be rendered."""
        return self._make(1, for_video=True)

    def _make(self, num_games: int, for_video: bool) -> SlotEnv:
        from machina.envs.games.multi_agent import MultiAgentSlots
        from machina.envs.games.pettingzoo_game import make_games

        # pygame, which most of them draw with, greets on standard output.
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        if self.spec.name in GAMES:
            games = GAMES[self.spec.name].make(num_games, self.spec, for_video)
        else:
            games = make_games(self.spec.name, self.spec, num_games, for_video)
        return MultiAgentSlots(games, self.spec, num_games, self.max_steps)


def game_factory(name: str, config: GameConfig) -> GameFactory:
    """The factory of a game for several agents.

    Args:
        name: for which ``is_game`` holds.
        config: of the game.

    Raises:
        UserError: the game needs packages that are not installed, or it can't be built or trained on.
    """
    game = GAMES.get(name)
    max_steps = config.max_steps or (game.max_steps if game else None)
    protocol: dict[str, str | int | float | bool] = {} if max_steps is None else {"max_steps": max_steps}
    if game is None:
        from machina.envs.games.pettingzoo_specs import read_spec

        return GameFactory(spec=read_spec(name, config.teams or BY_NAME, protocol), max_steps=max_steps)
    if config.teams is not None:
        raise UserError(f"teams={config.teams}: the teams of {name} are fixed; leave it out")
    if missing := [module for module in game.modules if importlib.util.find_spec(module) is None]:
        raise UserError(f"environment {name!r} needs {' and '.join(missing)}: pip install 'machina-trainer[league]'")
    spec = EnvSpec(
        name=name,
        tasks=game.roles,
        seats=game.seats,
        observation=game.observation,
        action=game.action,
        frame_stack=game.frame_stack,
        frames_per_step=game.frames_per_step,
        protocol=protocol,
    )
    return GameFactory(spec=spec, max_steps=max_steps)
