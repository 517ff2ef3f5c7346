"""Small vectorized tasks with a known best return, for tests and first steps.

Every random draw is a hash of the slot's seed and of a counter, so the whole state is a few arrays,
a slot's episodes do not depend on the other slots, and ``get_state`` continues bit for bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from machina.types import Array, BoolArray, FloatArray, IntArray

UnsignedArray = npt.NDArray[np.uint64]

_GOLDEN, _MIX_1, _MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)

PIXELS_PER_CELL = 24

DRAWS_PER_EPISODE = 16
"""Counters set aside for one episode of a slot."""


class Slots(NamedTuple):
    """The state of B slots; each array is ``[B]``."""

    task_ids: IntArray
    seeds: UnsignedArray
    episode: IntArray
    step: IntArray
    variables: dict[str, IntArray]
    """What else the toy keeps."""

    def draw(self, counter: IntArray | int, bound: int) -> IntArray:
        """Random integers in [0, bound); the same seed, episode and counter give the same again."""
        return draws(self.seeds, self.episode * DRAWS_PER_EPISODE + counter, bound)


class Change(NamedTuple):
    """What a step does to B slots."""

    variables: dict[str, IntArray]
    reward: Array
    terminated: BoolArray
    truncated: BoolArray


class Rules(Protocol):
    """One toy as pure functions of all slots; the observation is ``board`` flattened."""

    board: tuple[int, int]
    num_actions: int

    def begin(self, slots: Slots) -> dict[str, IntArray]:
        """The variables at the first entry of each slot's current episode."""
        ...

    def advance(self, slots: Slots, actions: IntArray) -> Change:
        """The step that leads to ``slots.step``."""
        ...

    def observe(self, slots: Slots) -> FloatArray:
        """``[B, *board]``, a new array."""
        ...


def draws(seeds: UnsignedArray, counters: IntArray, bound: int) -> IntArray:
    """``[B]`` integers in [0, bound) from ``[B]`` seeds and counters (SplitMix64, Steele et al. 2014)."""
    mixed = _mixed(_mixed(seeds + _GOLDEN) + (counters.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return (mixed % np.uint64(bound)).astype(np.int64)


def _mixed(value: UnsignedArray) -> UnsignedArray:
    value = (value ^ (value >> np.uint64(30))) * _MIX_1
    value = (value ^ (value >> np.uint64(27))) * _MIX_2
    return value ^ (value >> np.uint64(31))


class Catch:
    """A ball falls through a board of 10 rows and 5 columns; the paddle of the last row meets it or not.

    Actions: left, stay, right. Reward +1 or -1 with the last of 9 steps. The best return is 1; staying
    gives -0.6 on average. After the game of Mnih et al. 2014, "Recurrent models of visual attention".
    """

    board = (10, 5)
    num_actions = 3

    def begin(self, slots: Slots) -> dict[str, IntArray]:
        """A ball in a random column, the paddle in the middle."""
        return {"ball": slots.draw(0, self.board[1]), "paddle": np.full_like(slots.step, self.board[1] // 2)}

    def advance(self, slots: Slots, actions: IntArray) -> Change:
        """The ball falls by one row, the paddle moves by one column."""
        paddle = np.clip(slots.variables["paddle"] + actions - 1, 0, self.board[1] - 1)
        landed = slots.step == self.board[0] - 1
        reward = landed * np.where(paddle == slots.variables["ball"], 1.0, -1.0)
        return Change({**slots.variables, "paddle": paddle}, reward, landed, np.zeros_like(landed))

    def observe(self, slots: Slots) -> FloatArray:
        """1 where the ball and the paddle are."""
        board = np.zeros((len(slots.step), *self.board), dtype=np.float32)
        index = np.arange(len(slots.step))
        board[index, slots.step, slots.variables["ball"]] = 1.0
        board[index, self.board[0] - 1, slots.variables["paddle"]] = 1.0
        return board


class Counting:
    """Makes every entry recognizable: observation [step, episode], reward = step, actions are ignored.

    Episodes of slot i last n = 3 + i % 5 steps, so every return is n (n + 1) / 2; even episodes are
    terminated, odd ones truncated. Proves how unrolls, masks and core states are aligned.
    """

    board = (1, 2)
    num_actions = 2

    def begin(self, slots: Slots) -> dict[str, IntArray]:  # noqa: ARG002
        """Nothing but the counters."""
        return {}

    def advance(self, slots: Slots, actions: IntArray) -> Change:  # noqa: ARG002
        """One more."""
        ended = slots.step == 3 + np.arange(len(slots.step)) % 5
        odd = slots.episode % 2 == 1
        return Change({}, slots.step, ended & ~odd, ended & odd)

    def observe(self, slots: Slots) -> FloatArray:
        """Step and episode number."""
        return np.stack([slots.step, slots.episode], axis=1).astype(np.float32)[:, None]


class TwoScales:
    """Two tasks that differ in the size of the reward: 1 for the right action in one, 1000 in the other.

    Each of an episode's 10 steps shows one of 4 symbols: task 0 in the first row of the observation,
    task 1 in the second, so the policy can distinguish the tasks. The right action is the symbol's
    number in task 0 and 3 minus it in task 1; a wrong one gives nothing. Best returns: 10 and 10,000;
    random ones a quarter of it. Without adaptive scales a network learns one of the two.
    """

    board = (2, 4)
    num_actions = 4
    length = 10
    scales = np.array([1.0, 1000.0])

    def begin(self, slots: Slots) -> dict[str, IntArray]:
        """A random symbol."""
        return {"symbol": slots.draw(slots.step, self.num_actions)}

    def advance(self, slots: Slots, actions: IntArray) -> Change:
        """Reward for the symbol that was shown, and the next symbol."""
        symbol = slots.variables["symbol"]
        right = np.where(slots.task_ids == 0, symbol, self.num_actions - 1 - symbol)
        ended = slots.step == self.length
        return Change(self.begin(slots), (actions == right) * self.scales[slots.task_ids], ended, np.zeros_like(ended))

    def observe(self, slots: Slots) -> FloatArray:
        """1 at the task's row and the symbol's column."""
        board = np.zeros((len(slots.step), *self.board), dtype=np.float32)
        board[np.arange(len(slots.step)), slots.task_ids, slots.variables["symbol"]] = 1.0
        return board


class Recall:
    """The first entry shows a cue, 0 or 1; 20 steps later the action that equals it gives +1, the other one -1.

    Observation: which cue in the first two cells, both 0 after the first entry; the share of the 20 steps that are
    over in the third. No other action changes anything. The best return is 1, without memory 0 on average.
    """

    board = (1, 3)
    num_actions = 2
    delay = 20

    def begin(self, slots: Slots) -> dict[str, IntArray]:
        """A random cue."""
        return {"cue": slots.draw(0, self.num_actions)}

    def advance(self, slots: Slots, actions: IntArray) -> Change:
        """The action at the entry after ``delay`` steps ends the episode."""
        ended = slots.step == self.delay + 1
        reward = ended * np.where(actions == slots.variables["cue"], 1.0, -1.0)
        return Change(slots.variables, reward, ended, np.zeros_like(ended))

    def observe(self, slots: Slots) -> FloatArray:
        """The cue at the first entry, and the time."""
        board = np.zeros((len(slots.step), *self.board), dtype=np.float32)
        board[np.arange(len(slots.step)), 0, slots.variables["cue"]] = slots.step == 0
        board[:, 0, 2] = slots.step / self.delay
        return board


TOYS: dict[str, Rules] = {
    "catch": Catch(),
    "counting": Counting(),
    "two_scales": TwoScales(),
    "recall": Recall(),
}


class ToyEnv(VectorEnv[Any, Any, Any]):
    """B slots of a toy: episodes, NEXT_STEP autoreset, one seed per slot, the whole state as arrays."""

    seed_per_slot = True
    fresh_observations = True
    never_hangs = True

    def __init__(self, rules: Rules, task_ids: IntArray) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": ["rgb_array"]}
        self.render_mode = "rgb_array"
        self.num_envs = len(task_ids)
        size = rules.board[0] * rules.board[1]
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.single_action_space = spaces.Discrete(rules.num_actions)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._rules, self._task_ids = rules, task_ids
        self._seeds: UnsignedArray = np.zeros(self.num_envs, dtype=np.uint64)
        self._ended: BoolArray = np.zeros(self.num_envs, dtype=np.bool_)
        self._slots = self._first_entries()

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:  # noqa: ARG002
        """Start episode 0 in every slot; ``seed`` holds one seed per slot."""
        if seed is not None:
            self._seeds = np.asarray([int(value) % 2**64 for value in seed], dtype=np.uint64)
        self._ended = np.zeros(self.num_envs, dtype=np.bool_)
        self._slots = self._first_entries()
        return self._observe(), {}

    def step(self, actions: IntArray) -> tuple[Array, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """One step in running episodes, the next episode's first observation in ended ones."""
        resets, slots = self._ended, self._slots
        slots = slots._replace(step=np.where(resets, 0, slots.step + 1), episode=slots.episode + resets)
        change, first = self._rules.advance(slots, actions), self._rules.begin(slots)
        variables = {key: np.where(resets, first[key], value) for key, value in change.variables.items()}
        self._slots = slots._replace(variables=variables)
        terminated, truncated = change.terminated & ~resets, change.truncated & ~resets
        self._ended = terminated | truncated
        return self._observe(), np.where(resets, 0, change.reward).astype(np.float32), terminated, truncated, {}

    def get_state(self) -> dict[str, Array]:
        """A copy of every array."""
        slots = self._slots
        arrays: dict[str, Array] = {"seeds": slots.seeds, "ended": self._ended, "step": slots.step}
        arrays.update({"episode": slots.episode, **slots.variables})
        return {key: array.copy() for key, array in arrays.items()}

    def set_state(self, state: dict[str, Array]) -> None:
        """Continue from ``get_state``."""
        self._seeds, self._ended = state["seeds"].astype(np.uint64), state["ended"].astype(np.bool_)
        counters = {key: state[key].astype(np.int64) for key in ("episode", "step")}
        variables = {key: state[key].astype(np.int64) for key in self._slots.variables}
        self._slots = Slots(self._task_ids, self._seeds, **counters, variables=variables)

    def render(self) -> tuple[Array, ...]:
        """One picture per slot: the board in grey, largest value white."""
        boards = self._rules.observe(self._slots)
        grey = (boards / max(1.0, float(boards.max())) * 255).astype(np.uint8)
        grey = grey.repeat(PIXELS_PER_CELL, axis=1).repeat(PIXELS_PER_CELL, axis=2)
        return tuple(np.stack([board] * 3, axis=-1) for board in grey)

    def _first_entries(self) -> Slots:
        zero = np.zeros(self.num_envs, dtype=np.int64)
        slots = Slots(self._task_ids, self._seeds, episode=zero, step=zero, variables={})
        return slots._replace(variables=self._rules.begin(slots))

    def _observe(self) -> FloatArray:
        return self._rules.observe(self._slots).reshape(self.num_envs, -1)
