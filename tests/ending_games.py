"""Games of a user's own that end, leave and pay in other ways than PettingZoo's pages say."""

import subprocess
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv

LENGTH = 5
"""Steps of a game."""


class Ending(ParallelEnv):  # type: ignore[misc]
    """Two agents get 1 a step for five steps; flags come at the end, and `agents` is emptied then."""

    metadata = {"name": "ending_v0", "render_modes": []}  # noqa: RUF012
    flags = True
    """Whether flags report the end, too."""
    everybody = False
    """Whether observations, rewards and flags of all possible agents come in every step, whoever plays."""
    rllib = False
    """Whether flags have the key `__all__` as well."""

    def __init__(self) -> None:
        self.possible_agents = ["left_0", "right_0"]
        self.closed = False

    def observation_space(self, agent: str) -> Any:  # noqa: ARG002
        return spaces.Box(-1, 1, (2,), np.float32)

    def action_space(self, agent: str) -> Any:  # noqa: ARG002
        return spaces.Discrete(2)

    def seen(self, agents: list[str]) -> dict[str, Any]:
        return {agent: np.full(2, self.steps / 10, np.float32) for agent in agents}

    def reset(self, seed: int | None = None, options: Any = None) -> Any:  # noqa: ARG002
        self.agents = list(self.possible_agents)
        self.steps = 0
        return self.seen(self.agents), {agent: {} for agent in self.agents}

    def step(self, actions: Any) -> Any:  # noqa: ARG002
        self.steps += 1
        told = self.possible_agents if self.everybody else list(self.agents)
        end = self.steps >= LENGTH
        if end:
            self.agents = []
        terminations, truncations = dict.fromkeys(told, end and self.flags), dict.fromkeys(told, False)
        if self.rllib:
            terminations["__all__"], truncations["__all__"] = end, False
        return self.seen(told), dict.fromkeys(told, 1.0), terminations, truncations, {agent: {} for agent in told}

    def close(self) -> None:
        self.closed = True


class Dice(Ending):
    """Pays what the generator says that all code of a process shares."""

    def step(self, actions: Any) -> Any:
        observations, rewards, *rest = super().step(actions)
        return observations, {agent: np.random.rand() for agent in rewards}, *rest


class Simulator(Ending):
    """Starts a program, and ends it when it is closed; `breaks` raises in the second step."""

    programs: list[subprocess.Popen[bytes]] = []  # noqa: RUF012
    breaks = False

    def __init__(self) -> None:
        super().__init__()
        self.program = subprocess.Popen(["sleep", "600"])
        self.programs.append(self.program)

    def step(self, actions: Any) -> Any:
        if self.breaks and self.steps == 1:
            raise RuntimeError("the simulator stalled")
        return super().step(actions)

    def close(self) -> None:
        self.program.kill()
        self.program.wait()


class BreakingSimulator(Simulator):
    breaks = True


class NoFlags(Ending):
    """`agents` is emptied, no flag is ever set."""

    flags = False


class NoFlagsEverybody(NoFlags):
    everybody = True


class RllibKeys(Ending):
    rllib = True


class Gone(Ending):
    """right_0 is gone in step 3, from `agents` and from every dictionary, without a flag."""

    def step(self, actions: Any) -> Any:
        if self.steps == 2:
            self.agents.remove("right_0")
        return super().step(actions)


class OnlyTheLivingSee(Ending):
    """right_0 is hit in step 2: its flag and its -1 are returned, what it sees is not. `cut`: a limit did it."""

    cut = False

    def step(self, actions: Any) -> Any:
        struck = self.steps == 1
        observations, rewards, terminations, truncations, infos = super().step(actions)
        if struck:
            self.agents = ["left_0"]
            del observations["right_0"]
            rewards["right_0"] = -1.0
            (truncations if self.cut else terminations)["right_0"] = True
        return observations, rewards, terminations, truncations, infos


class CutUnseen(OnlyTheLivingSee):
    cut = True


class Turns(AECEnv):  # type: ignore[misc]
    """Two agents, three turns each, 1 a turn, in `_cumulative_rewards` only; then both are terminated."""

    metadata = {"name": "turns_v0", "render_modes": []}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.possible_agents = ["a_0", "b_0"]

    def observation_space(self, agent: str) -> Any:  # noqa: ARG002
        return spaces.Box(-1, 1, (1,), np.float32)

    def action_space(self, agent: str) -> Any:  # noqa: ARG002
        return spaces.Discrete(2)

    def observe(self, agent: str) -> Any:  # noqa: ARG002
        return np.full(1, self.turns / 10, np.float32)

    def reset(self, seed: int | None = None, options: Any = None) -> None:  # noqa: ARG002
        self.agents = list(self.possible_agents)
        self.rewards, self._cumulative_rewards = (dict.fromkeys(self.agents, 0.0) for _ in range(2))
        self.terminations, self.truncations = (dict.fromkeys(self.agents, False) for _ in range(2))
        self.infos: dict[str, Any] = {agent: {} for agent in self.agents}
        self.turns = 0
        self.agent_selection = "a_0"

    def step(self, action: Any) -> None:
        mover = self.agent_selection
        if self.terminations[mover]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[mover] = 0
        self.turns += 1
        self.pay(mover)
        self.agent_selection = "b_0" if mover == "a_0" else "a_0"
        if self.turns == 6:
            self.end()

    def pay(self, mover: str) -> None:
        self._cumulative_rewards[mover] += 1

    def end(self) -> None:
        self.terminations = dict.fromkeys(self.agents, True)


class TurnsNoFlags(Turns):
    """Pays through `rewards` as well; the end is `agents` emptied, no flag is ever set."""

    def pay(self, mover: str) -> None:
        self.rewards = {agent: float(agent == mover) for agent in self.agents}
        self._accumulate_rewards()

    def end(self) -> None:
        self.agents = []


class TurnsCumulativeNoFlags(Turns):
    """As Turns, ended by emptying `agents`."""

    def end(self) -> None:
        self.agents = []


class Misdeclared(Ending):
    """What comes in step 2 is not what the spaces say; each attribute is one way."""

    observation: Any = None
    reward: Any = None
    flag: Any = None

    def observation_space(self, agent: str) -> Any:  # noqa: ARG002
        return spaces.Box(0, 255, (2,), np.uint8)

    def step(self, actions: Any) -> Any:
        observations, rewards, terminations, truncations, infos = super().step(actions)
        if self.steps == 2:
            for place, value in (
                (observations, self.observation),
                (rewards, self.reward),
                (truncations, self.flag),
            ):
                if value is not None:
                    place["right_0"] = value
        return observations, rewards, terminations, truncations, infos

    def seen(self, agents: list[str]) -> dict[str, Any]:
        return {agent: np.full(2, self.steps) for agent in agents}


class Blind(Ending):
    """Shows the same in every step."""

    def seen(self, agents: list[str]) -> dict[str, Any]:
        return {agent: np.zeros(2, np.float32) for agent in agents}

    def step(self, actions: Any) -> Any:
        observations, rewards, _, truncations, infos = super().step(actions)
        over = self.steps == 60
        self.agents = [] if over else list(self.possible_agents)
        return observations, rewards, dict.fromkeys(observations, over), truncations, infos


parallel_env = Blind


class Cameras(Ending):
    """Sees pictures, in a dictionary within another, that it draws in a render mode only."""

    metadata = {"name": "cameras_v0", "render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.render_mode = render_mode

    def observation_space(self, agent: str) -> Any:  # noqa: ARG002
        return spaces.Dict({"views": spaces.Dict({"left": spaces.Box(0, 255, (8, 8, 3), np.uint8)})})

    def seen(self, agents: list[str]) -> dict[str, Any]:
        shade = 0 if self.render_mode is None else self.steps
        return {agent: {"views": {"left": np.full((8, 8, 3), shade, np.uint8)}} for agent in agents}


class Sights(Ending):
    """Sees choices, several of them, and numbers, in dictionaries and tuples; the actions of blue are masked."""

    def __init__(self) -> None:
        super().__init__()
        self.possible_agents = ["red_0", "blue_0"]

    def observation_space(self, agent: str) -> Any:
        parts = {
            "card": spaces.Discrete(3, start=1),
            "hand": spaces.Tuple((spaces.MultiDiscrete([2, 3]), spaces.Box(0, 5, (2,), np.int16))),
            "bits": spaces.MultiBinary(2),
        }
        if agent == "blue_0":
            parts["action_mask"] = spaces.Box(0, 1, (2,), np.int8)
        return spaces.Dict(parts)

    def seen(self, agents: list[str]) -> dict[str, Any]:
        card = 1 + self.steps % 3
        return {
            agent: {
                "card": card,
                "hand": (np.array([1, 2]), np.array([self.steps, 5])),
                "bits": np.array([1, 0]),
                **({"action_mask": np.array([0, 1])} if agent == "blue_0" else {}),
            }
            for agent in agents
        }
