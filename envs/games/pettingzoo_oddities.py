"""What some PettingZoo environments do otherwise than PettingZoo's interface says, put right.

``docs/environments.md`` lists them with the versions in which they were seen. The adapters of
``machina.envs.games.pettingzoo_game`` call ``AsTold``; an environment that needs more has a class here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from machina.types import FloatArray

MAX_NOOPS = 30
"""Frames at most that pass in an Atari game before the players take over."""


class AsTold:
    """Takes an environment at its word.

    Args:
        env: parallel or turn-based, with its wrappers.
    """

    protocol: ClassVar[Mapping[str, str]] = {}
    """What is done beyond the environment's own rules, for the protocol of scores."""

    def __init__(self, env: Any) -> None:
        self.env = env

    def reset(self, seed: int) -> Any:
        """Begin a game; returns what the environment returns."""
        return self.env.reset(seed=seed)

    def rewards(self, paid: Mapping[Any, float]) -> Mapping[Any, float]:
        """What a step paid, by agent; ``paid`` is what a parallel environment returned."""
        return paid

    def owed(self, agent: Any, paid: float) -> float:
        """What a turn-based environment has paid an agent since its last turn; ``paid`` is what was passed on so
        far."""
        return float(self.env._cumulative_rewards.get(agent, paid))

    def is_limit(self, agent: Any) -> bool:  # noqa: ARG002
        """Whether an end that is reported as a termination was a limit's."""
        return False

    def score(self, reward: FloatArray) -> FloatArray | None:  # noqa: ARG002
        """What decides the game, where that is not the reward."""
        return None


class Magent(AsTold):
    """magent2's maps share out actions by the sizes that its teams had at the end of the game before.

    That is how they stand after ``reset``, which counts the agents before the map is made: in the first step of every
    game all teams play what was meant for the first one.
    """

    def reset(self, seed: int) -> Any:
        """Begin a game, then count the agents."""
        answer = super().reset(seed)
        world = self.env.unwrapped
        world.team_sizes = [world.env.get_num(team) for team in world.handles]
        return answer


class KnightsArchersZombies(AsTold):
    """Pays all agents but the first one when their next turn comes, and never what falls due in the last cycle.

    The points of a cycle stand in the agents' own counters until they move again. Besides, the clock that spawns
    zombies runs on at a reset, so that games with one seed differ.
    """

    def reset(self, seed: int) -> Any:
        """Begin a game, and its spawn clock."""
        self.env.unwrapped.zombie_spawn_interval.reset()
        return super().reset(seed)

    def rewards(self, paid: Mapping[Any, float]) -> Mapping[Any, float]:
        """The counters."""
        players = self.env.unwrapped.agent_map
        return {agent: float(players[agent].score) for agent in paid}

    def owed(self, agent: Any, paid: float) -> float:  # noqa: ARG002
        """The counter."""
        return float(self.env.unwrapped.agent_map[agent].score)


class Multiwalker(AsTold):
    """Reports its limit of steps as a termination."""

    def is_limit(self, agent: Any) -> bool:
        """Whether the walker was still going."""
        walkers = self.env.unwrapped
        fell = walkers.env.get_last_dones()[walkers.possible_agents.index(agent)]
        return bool(walkers.env.frames >= walkers.env.max_cycles and not fell)


class Atari(AsTold):
    """In most games nothing depends on the seed: each would begin alike.

    So a number of frames that the seed decides pass before the first picture, as in ``pong_duel``.
    """

    protocol: ClassVar[Mapping[str, str]] = {"noop_frames": f"0 to {MAX_NOOPS}"}

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self._noops = 0
        game = env.unwrapped
        self._nothing = np.zeros(len(game.possible_agents), np.int32)
        # Its own reset takes the first picture right after this call, and a turn-based front keeps that.
        game.ale.reset_game = functools.partial(self._reset_game, game.ale.reset_game, game.ale.act)

    def _reset_game(self, reset_game: Any, act: Any) -> None:
        reset_game()
        for _ in range(self._noops):
            act(self._nothing)

    def reset(self, seed: int) -> Any:
        """Begin a game with up to ``MAX_NOOPS`` frames without actions."""
        self._noops = int(np.random.default_rng(seed).integers(MAX_NOOPS + 1))
        return super().reset(seed)


class FlagCapture(Atari):
    """Pays the first player 5 for a flag and the second one 1; on the screen both have a point."""

    def score(self, reward: FloatArray) -> FloatArray | None:
        """Flags."""
        return np.sign(reward)


_BY_CLASS: dict[str, type[AsTold]] = {
    "magent2.environments.magent_env.magent_parallel_env": Magent,
    "pettingzoo.butterfly.knights_archers_zombies.knights_archers_zombies.raw_env": KnightsArchersZombies,
    "pettingzoo.sisl.multiwalker.multiwalker.raw_env": Multiwalker,
    "pettingzoo.atari.base_atari_env.ParallelAtariEnv": Atari,
}


def reading(env: Any) -> AsTold:
    """How an environment is read: at its word, or as its class in this module says."""
    if str(env.metadata.get("name", "")).startswith("flag_capture"):
        return FlagCapture(env)
    for base in type(env.unwrapped).__mro__:
        if (kind := _BY_CLASS.get(f"{base.__module__}.{base.__qualname__}")) is not None:
            return kind(env)
    return AsTold(env)
