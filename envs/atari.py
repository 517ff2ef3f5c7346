"""Atari games as one multi-task vector environment on ale-py's C++ stepping."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import ale_py
import numpy as np
import numpy.typing as npt
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from machina.envs.atari_games import NOT_FOR_ONE, NUM_FULL_ACTIONS
from machina.envs.config import AtariConfig
from machina.errors import EnvironmentFaultError, UserError
from machina.types import Array, BoolArray, FloatArray, IntArray

FRAME_SIZE = 84
"""Height and width of a frame (Mnih et al. 2015)."""

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)

Answer = tuple[npt.NDArray[np.uint8], FloatArray, BoolArray, BoolArray, dict[str, Any]]


class Entry(NamedTuple):
    """One entry of all slots while it is being gathered from the games."""

    frames: npt.NDArray[np.uint8]
    """``[B, frame_stack, 84, 84]``."""
    reward: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    lives: IntArray


def all_games() -> list[str]:
    """Every game whose ROM comes with ale-py and that one player can play."""
    return sorted(set(roms.get_all_rom_ids()) - NOT_FOR_ONE.keys())


def minimal_num_actions(game: str) -> int:
    """Size of the set of actions that have an effect in the game."""
    return len(_emulator(game).getMinimalActionSet())


def action_names(game: str, *, full: bool) -> tuple[str, ...]:
    """What the policy's actions are called, such as UPRIGHTFIRE; see ``action_table``."""
    actions = range(NUM_FULL_ACTIONS) if full else _emulator(game).getMinimalActionSet()
    return tuple((ale_py.Action(each) if isinstance(each, int) else each).name for each in actions)


def screen_size(game: str) -> tuple[int, int]:
    """Height and width of the game's screen, for films; ten games have 250 rows, three others 214 to 230."""
    height, width = _emulator(game).getScreenDims()
    return height, width


def _emulator(game: str) -> ale_py.ALEInterface:
    rom = roms.get_rom_path(game)
    if rom is None:
        raise UserError(f"ale-py has no ROM of {game!r}")
    ale = ale_py.ALEInterface()
    ale.loadROM(rom)
    return ale


def action_table(legal: Sequence[ale_py.Action], full: bool) -> IntArray:
    """What ALE is sent for each policy action: an index into ``legal``.

    The policy's 18 actions are ALE's own numbering. A game without a fire button (Skiing has 9 legal
    actions) takes the same direction without fire. ALE hangs indefinitely on an index out of range.
    """
    if not full:
        return np.arange(len(legal))
    indices = {action.name: index for index, action in enumerate(legal)}

    def index(action: ale_py.Action) -> int:
        without_fire = action.name.removesuffix("FIRE") or "NOOP"
        return indices[action.name if action.name in indices else without_fire]

    return np.array([index(ale_py.Action(number)) for number in range(NUM_FULL_ACTIONS)])


def make_game(
    game: str, num_slots: int, config: AtariConfig, threads: int, *, full: bool, colour: bool = False
) -> AtariVectorEnv:
    """``num_slots`` environments of one game; ``colour`` gives whole RGB screens instead of frame stacks.

    Takes about 0.1 s per environment. Every argument is stated because ale-py's defaults
    are not those of the papers.
    """
    height, width = screen_size(game) if colour else (FRAME_SIZE, FRAME_SIZE)
    return AtariVectorEnv(
        game,
        num_slots,
        batch_size=0,
        num_threads=min(threads, num_slots),
        thread_affinity_offset=-1,
        max_num_frames_per_episode=config.frame_cap,
        repeat_action_probability=config.sticky_actions,
        full_action_space=full,
        continuous=False,
        autoreset_mode=AutoresetMode.NEXT_STEP,
        img_height=height,
        img_width=width,
        grayscale=not colour,
        stack_num=1 if colour else config.frame_stack,
        frameskip=config.frame_skip,
        maxpool=config.max_pool,
        # ale-py plays fewer than it is asked for, at most one fewer; 0 are none.
        noop_max=config.noop_max + 1 if config.noop_max else 0,
        episodic_life=False,
        life_loss_info=False,
        reward_clipping=False,
        use_fire_reset=config.fire_reset,
    )


def _abandon(env: AtariVectorEnv) -> None:
    """Never destroy a hung environment: its destructor joins threads that do not end."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(env))
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(env.ale))


class AtariTasks(VectorEnv[Any, Any, Any]):
    """B slots over one or several games; slot i plays ``games[task_ids[i]]``.

    All games step at once: actions go to every game before the first result is awaited. Observations
    are ``[B, frame_stack, 84, 84]`` uint8, a new array each step. Rewards are the game's own.

    ``recover`` may be called from another thread while ``step`` hangs in one game. A generation
    counter makes the thread that hangs harmless: if it ever wakes it touches nothing and raises.
    """

    seed_per_slot = True
    fresh_observations = True

    def __init__(
        self,
        games: Sequence[str],
        task_ids: Sequence[int],
        config: AtariConfig,
        env_threads: int,
        *,
        full: bool,
        for_video: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._generation = 0
        self._pending: list[int] = []
        self._envs: list[AtariVectorEnv] = []
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": ["rgb_array"]}
        self.num_envs = len(task_ids)
        self.render_mode = "rgb_array" if for_video else None
        self._config, self._threads, self._full = config, env_threads, full
        played = sorted(set(task_ids))
        self._games = [games[task] for task in played]
        self._slots = [np.flatnonzero(np.asarray(task_ids) == task) for task in played]
        for game, slots in zip(self._games, self._slots, strict=True):
            self._envs.append(make_game(game, len(slots), config, env_threads, full=full))
            if progress is not None:
                progress(len(slots))
        self._tables = [action_table(env.ale.get_action_set(), full) for env in self._envs]
        self._screen = make_game(self._games[0], 1, config, 1, full=full, colour=True) if for_video else None
        self._screen_frame: Array | None = None
        self.single_observation_space = self._envs[0].single_observation_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._num_actions = len(self._tables[0])
        self.single_action_space = spaces.Discrete(self._num_actions)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._restart: BoolArray = np.zeros(self.num_envs, dtype=np.bool_)
        self._seeds = np.zeros(self.num_envs, dtype=np.int64)
        self._last: Entry | None = None
        self._next: Entry | None = None

    @property
    def waiting_for(self) -> str:
        """The game whose result is being awaited; empty between steps."""
        pending = self._pending
        return self._games[pending[0]] if pending else ""

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:  # noqa: ARG002
        """Start an episode in every slot; ``seed`` holds one seed per slot."""
        if seed is not None:
            # ALE takes 32-bit seeds and reads -1 as "keep the generator".
            self._seeds = np.asarray([int(value) % 2**31 for value in seed])
        entry = self._empty_entry()
        self._restart[:] = False

        def reset_game(env: AtariVectorEnv, slots: IntArray) -> None:
            frames, infos = env.reset(seed=self._seeds[slots])
            entry.frames[slots], entry.lives[slots] = frames, infos["lives"]

        # A reset plays up to 30 no-ops per environment without the interpreter lock: two threads halve the time.
        with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
            list(pool.map(reset_game, self._envs, self._slots))
        if self._screen is not None:
            self._screen_frame = self._screen.reset(seed=self._seeds[:1])[0]
        self._last = entry
        return entry.frames, {"lives": entry.lives}

    def step(self, actions: IntArray) -> Answer:
        """Step every slot.

        Raises:
            ValueError: an action outside the policy's range; nothing was sent.
            EnvironmentFaultError: this call hung, ``recover`` finished the step elsewhere.
        """
        if actions.shape != (self.num_envs,) or actions.min() < 0 or actions.max() >= self._num_actions:
            raise ValueError(f"actions must be [{self.num_envs}] in [0, {self._num_actions}), got {actions}")
        with self._lock:
            generation = self._generation
            self._next = self._empty_entry()
            self._pending = list(range(len(self._envs)))
        for env, table, slots in zip(self._envs, self._tables, self._slots, strict=True):
            env.send(table[actions[slots]])
        if self._screen is not None:
            self._screen_frame = self._screen.step(self._tables[0][actions[:1]])[0]
        return self._gather(generation)

    def recover(self) -> Answer | None:
        """Called from another thread while ``step`` hangs: replace the game and finish the step.

        A slot that was in an episode gets ``truncated`` with its last observation and reward 0 (how the
        episode continued is unknown), and its next step is a reset step. None when no step is in progress.
        """
        with self._lock:
            if not self._pending or self._last is None or self._screen is not None:
                return None
            self._generation += 1
            generation = self._generation
            game = self._pending[0]
        _abandon(self._envs[game])
        slots = self._slots[game]
        env = make_game(self._games[game], len(slots), self._config, self._threads, full=self._full)
        self._seeds[slots] = (self._seeds[slots] + generation * 1_000_003) % 2**31
        frames, infos = env.reset(seed=self._seeds[slots])
        with self._lock:
            self._own(generation)
            self._envs[game] = env
            last, entry = self._last, self._next
            assert entry is not None
            cut = ~(last.terminated | last.truncated)[slots]
            entry.frames[slots] = np.where(cut[:, None, None, None], last.frames[slots], frames)
            entry.lives[slots] = np.where(cut, last.lives[slots], infos["lives"])
            entry.truncated[slots] = cut
            self._restart[slots] = cut
            self._pending.pop(0)
        return self._gather(generation)

    def render(self) -> tuple[Array, ...] | None:
        """The RGB screen of slot 0, ``[H, W, 3]``, from a twin that plays the same seed and actions."""
        return None if self._screen_frame is None else (self._screen_frame[0, 0],)

    def close_at_once(self) -> None:
        """Release the environments; one that is being stepped is abandoned instead of destroyed."""
        with self._lock:
            self._generation += 1
            for game in self._pending:
                _abandon(self._envs[game])
            self._pending, self._envs, self._screen = [], [], None

    def close_extras(self, **kwargs: Any) -> None:  # noqa: ARG002
        """gymnasium's hook of ``close``."""
        self.close_at_once()

    def _gather(self, generation: int) -> Answer:
        """Receive the games that are still pending."""
        while True:
            with self._lock:
                self._own(generation)
                if not self._pending:
                    break
                game = self._pending[0]
                env = self._envs[game]
            slots = self._slots[game]
            frames, reward, terminated, truncated, infos = env.recv()
            lives = infos["lives"]
            restart = self._restart[slots]
            if restart.any():
                frames, infos = env.reset(seed=self._seeds[slots][restart], options={"reset_mask": restart})
                lives = infos["lives"]
            with self._lock:
                self._own(generation)
                entry = self._next
                assert entry is not None
                if len(slots) == self.num_envs:
                    entry = self._next = entry._replace(frames=frames)
                else:
                    entry.frames[slots] = frames
                entry.lives[slots] = lives
                entry.reward[slots] = np.where(restart, 0, reward)
                entry.terminated[slots] = terminated & ~restart
                entry.truncated[slots] = truncated & ~restart
                self._restart[slots] = False
                self._pending.pop(0)
        entry = self._next
        assert entry is not None
        self._last, self._next = entry, None
        return entry.frames, entry.reward, entry.terminated, entry.truncated, {"lives": entry.lives}

    def _own(self, generation: int) -> None:
        """Stop a thread whose step was finished by another one."""
        if generation != self._generation:
            raise EnvironmentFaultError("this step hung and was finished by another thread")

    def _empty_entry(self) -> Entry:
        size = self.num_envs
        return Entry(
            frames=np.empty((size, self._config.frame_stack, FRAME_SIZE, FRAME_SIZE), dtype=np.uint8),
            reward=np.zeros(size, dtype=np.float32),
            terminated=np.zeros(size, dtype=np.bool_),
            truncated=np.zeros(size, dtype=np.bool_),
            lives=np.zeros(size, dtype=np.int64),
        )
