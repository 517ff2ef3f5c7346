"""Simple tag: three slow adversaries hunt a fast agent among obstacles (mpe2 ``simple_tag_v3``), many worlds at once.

mpe2 sets the worlds up and draws them; their motion is computed here for all of them together, with mpe2's constants
and in its order: a hundred worlds make 60 times as many steps as mpe2's, one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from machina.envs.games.multi_agent import Moment
from machina.specs import EnvSpec
from machina.types import Array, BoolArray

Doubles = npt.NDArray[np.float64]

SELF, UNITS = "self", "units"
"""What an agent knows of itself (velocity, position), and of everything else, a row each."""

NUM_ADVERSARIES, NUM_AGENTS, NUM_OBSTACLES = 3, 4, 2
"""The agents are the adversaries and the one they hunt."""

KINDS = 3
"""Adversary, agent, obstacle: the last columns of a unit's row."""

UNIT_FEATURES = 4 + KINDS
"""Position relative to the observer, velocity, kind."""

DIRECTIONS: Doubles = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)], np.float64)
"""Actions: nothing, left, right, down, up."""

CATCH_REWARD = 10.0


class SimpleTag:
    """N worlds. A catch gives every adversary +10 and the agent -10, which also pays for leaving the field.

    Observation ``self`` ``[4]`` and ``units`` ``[5, 7]`` float32: the obstacles, then the other agents. As in mpe2 only
    the hunted agent's velocity is seen by others.
    """

    never_hangs = True

    def __init__(self, num_games: int, spec: EnvSpec, for_video: bool) -> None:
        from mpe2 import simple_tag_v3

        self._spec = spec
        self._env = simple_tag_v3.raw_env(
            num_good=NUM_AGENTS - NUM_ADVERSARIES,
            num_adversaries=NUM_ADVERSARIES,
            num_obstacles=NUM_OBSTACLES,
            render_mode="rgb_array" if for_video else None,
        )
        self._world = self._env.world
        entities = self._world.entities
        self._position: Doubles = np.zeros((num_games, len(entities), 2))
        self._velocity: Doubles = np.zeros((num_games, NUM_AGENTS, 2))
        sizes = np.array([entity.size for entity in entities])
        self._reach: Doubles = sizes[:NUM_AGENTS, None] + sizes
        """``[agent, entity]``: how near the two touch."""
        self._acceleration: Doubles = np.array([agent.accel for agent in self._world.agents])[:, None]
        self._mass: Doubles = np.array([agent.mass for agent in self._world.agents])[:, None]
        self._max_speed: Doubles = np.array([agent.max_speed for agent in self._world.agents])
        self._apart = ~np.eye(NUM_AGENTS, len(entities), dtype=np.bool_)
        self.stepping = ""

    def play(self, actions: Array, begins: Mapping[int, int]) -> Moment:
        """One step of every world."""
        moment = Moment.blank(self._spec, len(self._position) * NUM_AGENTS)
        self._move(actions.reshape(-1, NUM_AGENTS))
        for game, seed in begins.items():
            self._env.reset(seed=seed)
            self._position[game] = [entity.state.p_pos for entity in self._world.entities]
            self._velocity[game] = 0
        self._reward(moment.reward.reshape(-1, NUM_AGENTS))
        self._show(moment)
        return moment

    def _move(self, actions: Array) -> None:
        world = self._world
        apart = self._position[:, :NUM_AGENTS, None] - self._position[:, None]
        distance = np.sqrt(np.square(apart).sum(axis=-1))
        depth = np.logaddexp(0, (self._reach - distance) / world.contact_margin) * world.contact_margin
        push = np.divide(depth, distance, out=np.zeros_like(depth), where=self._apart & (distance > 0))
        force = world.contact_force * np.einsum("nae,naed->nad", push, apart)
        force += DIRECTIONS[actions] * self._acceleration
        self._position[:, :NUM_AGENTS] += self._velocity * world.dt
        velocity = self._velocity * (1 - world.damping) + force / self._mass * world.dt
        speed = np.sqrt(np.square(velocity).sum(axis=-1))
        too_fast = np.divide(self._max_speed, speed, out=np.ones_like(speed), where=speed > self._max_speed)
        self._velocity = velocity * too_fast[..., None]

    def _reward(self, reward: Array) -> None:
        """Fill in ``[N, 4]``."""
        hunted = self._position[:, NUM_ADVERSARIES]
        distance = np.sqrt(np.square(self._position[:, :NUM_ADVERSARIES] - hunted[:, None]).sum(axis=-1))
        caught: BoolArray = distance < self._reach[:NUM_ADVERSARIES, NUM_ADVERSARIES]
        catches = CATCH_REWARD * caught.sum(axis=1)
        reward[:, :NUM_ADVERSARIES] = catches[:, None]
        reward[:, NUM_ADVERSARIES] = -catches - _outside(np.abs(hunted)).sum(axis=1)

    def _show(self, moment: Moment) -> None:
        """Fill in what everybody sees."""
        own = moment.observation[SELF].reshape(-1, NUM_AGENTS, 4)
        own[..., :2] = self._velocity
        own[..., 2:] = self._position[:, :NUM_AGENTS]
        units = moment.observation[UNITS].reshape(-1, NUM_AGENTS, len(self._world.entities) - 1, UNIT_FEATURES)
        for observer in range(NUM_AGENTS):
            others = [agent for agent in range(NUM_AGENTS) if agent != observer]
            rows = [*range(NUM_AGENTS, self._position.shape[1]), *others]
            units[:, observer, :, :2] = self._position[:, rows] - self._position[:, [observer]]
            if observer != NUM_ADVERSARIES:
                units[:, observer, -1, 2:4] = self._velocity[:, NUM_ADVERSARIES]
            kinds = [2] * NUM_OBSTACLES + [int(agent == NUM_ADVERSARIES) for agent in others]
            units[:, observer, np.arange(len(rows)), 4 + np.array(kinds)] = 1

    def picture(self) -> Array | None:
        """World 0 as mpe2 draws it."""
        for entity, position in zip(self._world.entities, self._position[0], strict=True):
            entity.state.p_pos = position.copy()
        return self._env.render()  # type: ignore[no-any-return]

    def close(self) -> None:
        """Nothing to release."""


def _outside(distance: Doubles) -> Doubles:
    """What the hunted agent pays for each coordinate beyond 0.9 (``agent_reward`` of mpe2)."""
    far = np.minimum(np.exp(2 * np.minimum(distance, 10) - 2), 10)
    return np.where(distance < 0.9, 0, np.where(distance < 1, (distance - 0.9) * 10, far))
