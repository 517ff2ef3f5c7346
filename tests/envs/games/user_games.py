"""A user's own games for several agents, as they would lie in the working directory."""

import functools
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv

Space = spaces.Space[Any]


class Relay(AECEnv):  # type: ignore[misc]
    """Two red agents and a blue one in turn; `trouble` strikes in the second turn.

    Whoever moves gets a tenth of its action, blue loses what red plays. red_1 is out after its second turn. The third
    turn of blue ends the game by a limit, and then red_0 gets 5 for it. The last action is forbidden to red.
    """

    metadata = {"name": "relay", "render_modes": []}  # noqa: RUF012

    def __init__(self, trouble: str = "") -> None:
        super().__init__()
        self.possible_agents = ["red_0", "red_1", "blue_0"]
        self.trouble = trouble

    def observation_space(self, agent: str) -> Space:  # noqa: ARG002
        return spaces.Dict({"observation": spaces.Box(0, 9, (1,), np.float64), "action_mask": spaces.MultiBinary(3)})

    def action_space(self, agent: str) -> Space:  # noqa: ARG002
        return spaces.Discrete(3)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self.agents = list(self.possible_agents)
        self.turn = 0
        self.moves = dict.fromkeys(self.agents, 0)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        self.agent_selection = "red_0"
        if self.trouble == "joins":
            self.agents.remove("red_1")

    def observe(self, agent: str) -> Any:
        observation = np.array([self.turn + 0.5 * (agent == "blue_0")])
        helpless = self.trouble == "helpless" and self.turn == 1
        mask = np.zeros(3, np.int8) if helpless else np.array([1, 1, agent == "blue_0"], np.int8)
        return {"observation": observation, "action_mask": mask}

    def step(self, action: Any) -> None:
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        if self.turn == 1 and self.trouble == "raises":
            raise RuntimeError("the ball is lost\nsecond line")
        order = [each for each in self.possible_agents if each in self.agents]
        self.turn += 1
        self.moves[agent] += 1
        self._cumulative_rewards[agent] = 0
        self._clear_rewards()
        self.rewards[agent] += action / 10
        if agent != "blue_0":
            self.rewards["blue_0"] -= action
        if agent == "red_1" and self.moves[agent] == 2:
            self.terminations[agent] = True
        if agent == "blue_0" and self.moves[agent] == 3:
            self.rewards["red_0"] += 5
            self.truncations = dict.fromkeys(self.truncations, True)
        self._accumulate_rewards()
        if self.turn == 2 and self.trouble == "joins":
            self.agents.append("red_1")
        self.agent_selection = order[(order.index(agent) + 1) % len(order)]
        self._deads_step_first()


class Patrol(ParallelEnv):  # type: ignore[misc]
    """A scout and two guards. guard_1 is killed in step 2, the scout's time is up in step 3, step 4 ends the game.

    Everybody gets its action as reward; the killed guard loses 1. The scout sees two numbers and has two actions, a
    guard sees three and has three.
    """

    metadata = {"name": "patrol", "render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, trouble: str = "", render_mode: str | None = None) -> None:
        self.possible_agents = ["scout_0", "guard_0", "guard_1"]
        self.trouble, self.render_mode = trouble, render_mode

    def observation_space(self, agent: str) -> Space:
        return spaces.Box(-9, 9, (2 if agent == "scout_0" else 3,), np.float64)

    def action_space(self, agent: str) -> Space:
        return spaces.Discrete(2 if agent == "scout_0" else 3)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:  # noqa: ARG002
        self.agents = list(self.possible_agents)
        self.steps, self.start = 0, float(np.random.default_rng(seed).integers(1, 4))
        infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        if self.trouble == "mask":
            infos["guard_0"] = {"action_mask": np.ones(3, np.int8)}
        return {agent: self._seen(agent) for agent in self.agents}, infos

    def _seen(self, agent: str) -> Any:
        seen = np.array([self.start, self.steps, self.possible_agents.index(agent)], np.float64)
        return seen[: 2 if agent == "scout_0" else 3]

    def step(self, actions: dict[str, Any]) -> Any:
        self.steps += 1
        agents = self.agents
        observations = {agent: self._seen(agent) for agent in agents}
        rewards = {agent: float(actions[agent] - (agent == "guard_1" and self.steps == 2)) for agent in agents}
        terminations = {agent: self.steps == 4 or (agent == "guard_1" and self.steps == 2) for agent in agents}
        truncations = {agent: agent == "scout_0" and self.steps == 3 for agent in agents}
        if self.steps == 2 and self.trouble == "raises":
            raise RuntimeError("the radio is silent\nsecond line")
        if self.steps == 2 and self.trouble == "nan":
            observations["guard_0"][1] = np.nan
        if self.steps == 2 and self.trouble == "nan_reward":
            rewards["guard_0"] = np.nan
        if self.steps == 2 and self.trouble == "missing":
            del observations["guard_0"]
        if self.steps == 2 and self.trouble == "shape":
            observations["guard_0"] = np.zeros(1)
        self.agents = [agent for agent in agents if not (terminations[agent] or truncations[agent])]
        if self.steps == 3 and self.trouble == "joins":
            self.agents.append("guard_1")
            terminations["guard_1"] = truncations["guard_1"] = False
        return observations, rewards, terminations, truncations, {agent: {} for agent in agents}

    def render(self) -> Any:
        return None if self.render_mode is None else np.full((4, 6, 3), self.steps, dtype=np.uint8)


class Corners(Patrol):
    """Agents that no single policy can answer: `trouble` says why."""

    def observation_space(self, agent: str) -> Space:
        if self.trouble == "axes" and agent == "scout_0":
            return spaces.Box(-9, 9, (2, 1), np.float64)
        if self.trouble == "words":
            return spaces.Text(4)
        return super().observation_space(agent)

    def action_space(self, agent: str) -> Space:
        if self.trouble == "kinds" and agent == "scout_0":
            return spaces.Box(-1, 1, (2,), np.float32)
        return super().action_space(agent)


class NoAgents(ParallelEnv):  # type: ignore[misc]
    """Says nothing about who may play."""


class NeedsKey(Patrol):
    def __init__(self) -> None:
        raise KeyError("LICENCE")


env = Relay
parallel_env = Patrol
axes, words, kinds = (functools.partial(Corners, trouble) for trouble in ("axes", "words", "kinds"))
no_agents, not_pettingzoo, needs_key = NoAgents, dict, NeedsKey
