"""Battle: two teams of six on a map of 16 x 16 (magent2 ``battle_v4``), stepped team by team.

Through magent2's own PettingZoo front the same world makes 0.4 times as many steps, and in the first step of each game
blue is given the actions of red (magent2 0.3.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from machina.envs.games.multi_agent import Moment
from machina.specs import EnvSpec
from machina.types import OBSERVATION, Array, FloatArray, IntArray

MAP_SIZE = 16
"""Gives six agents a side."""

VIEW = 13
"""Edge of what an agent sees, itself in the middle."""

MOVES = tuple((x, y) for y in range(-2, 3) for x in range(-2, 3) if x * x + y * y <= 4)
"""Actions 0 to 12: steps to the right and down, at most two cells away."""

ATTACKS = tuple((x, y) for y in range(-1, 2) for x in range(-1, 2) if (x, y) != (0, 0))
"""Actions 13 to 20: the neighbour to the right and down that is attacked."""

MIN_PICTURE_PIXELS = 360


class Battle:
    """N maps. The team with fewer dead has won.

    Not the one with the higher reward: a blow into the air costs 0.1, so a team that never moves gets more than one
    that fights.

    Observation ``[13, 13, 5]`` float32, the rows downward: walls, own team and its health, other team and its health.
    """

    def __init__(self, num_games: int, spec: EnvSpec, for_video: bool) -> None:
        from magent2.environments import battle_v4

        self._spec = spec
        # The adapter truncates; the environment's own limit is out of reach.
        options: dict[str, Any] = {"map_size": MAP_SIZE, "max_cycles": 2**31, "minimap_mode": False}
        mode = "rgb_array" if for_video else None
        self._envs = [battle_v4.parallel_env(**options, render_mode=mode) for _ in range(num_games)]
        self._slots: list[list[IntArray]] = [[] for _ in self._envs]
        """Of the agents that live, by game and team, in the order of the world's own lists."""
        self.stepping = ""

    def play(self, actions: Array, begins: Mapping[int, int]) -> Moment:
        """One step on every map."""
        num_slots = len(self._envs) * len(self._spec.seats)
        score = np.zeros(num_slots, np.float32)
        moment = Moment.blank(self._spec, num_slots)._replace(score=score)
        actions = actions.astype(np.int32)
        for game, env in enumerate(self._envs):
            self.stepping = f"game {game}"
            if (seed := begins.get(game)) is not None:
                self._begin(moment, game, env, seed)
            else:
                self._step(moment, score, game, env, actions)
        return moment

    def _begin(self, moment: Moment, game: int, env: Any, seed: int) -> None:
        world = env.env
        world.set_seed(seed)
        world.reset()
        env.generate_map()
        first = game * len(self._spec.seats)
        self._slots[game] = [first + world.get_agent_id(team).astype(np.int64) for team in env.handles]
        for team, slots in zip(env.handles, self._slots[game], strict=True):
            moment.observation[OBSERVATION][slots] = world.get_observation(team)[0]

    def _step(self, moment: Moment, score: FloatArray, game: int, env: Any, actions: Array) -> None:
        world, teams = env.env, self._slots[game]
        for team, slots in zip(env.handles, teams, strict=True):
            world.set_action(team, actions[slots])
        over = world.step()
        for side, team in enumerate(env.handles):
            slots = teams[side]
            alive = world.get_alive(team)
            moment.observation[OBSERVATION][slots] = world.get_observation(team)[0]
            moment.reward[slots] = world.get_reward(team)
            moment.terminated[slots] = ~alive | over
            score[slots[~alive]] = -1
            teams[side] = slots[alive]
        world.clear_dead()

    def picture(self) -> Array | None:
        """Map 0 as magent2 draws it, larger."""
        drawn = self._envs[0].render()
        if drawn is None:
            return None
        times = -(-MIN_PICTURE_PIXELS // min(drawn.shape[:2]))
        return drawn.repeat(times, axis=0).repeat(times, axis=1)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Leave the worlds to the garbage collector: another thread may be in one."""
        self._envs = []
