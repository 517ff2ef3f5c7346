"""Pong for two players from pixels (PettingZoo's ``pong_v3`` on multi-agent-ale-py, with the ROM of ale-py)."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from machina.envs.games.multi_agent import Moment
from machina.specs import EnvSpec
from machina.types import OBSERVATION, Array

FRAME_SKIP = 4
FRAME_STACK = 4
FRAME_SIZE = 84

MAX_NOOPS = 30
"""Frames at most that pass before the players take over; without them every game would begin alike."""

FIELD = slice(34, 194)
"""Rows of the screen between the walls; the score above is left out."""

BORDER = (FRAME_SIZE - (FIELD.stop - FIELD.start) // 2) // 2


class PongDuel:
    """N games to 21 points: +1 for the player who scores, -1 for the other, and -1 for a player that does not serve in
    time.

    Observation ``[4, 84, 84]`` uint8: the field at half its size with a black border, newest frame last. Every player
    sees itself on the right: the left one sees the field mirrored, so that one policy can play both sides.
    """

    def __init__(self, num_games: int, spec: EnvSpec) -> None:
        import ale_py
        from multi_agent_ale_py.ale_python_interface import ale_lib
        from pettingzoo.atari.pong.pong import parallel_env

        self._spec = spec
        roms = str(Path(ale_py.__file__).parent / "roms")
        envs = [parallel_env(auto_rom_install_path=roms).unwrapped for _ in range(num_games)]
        self._emulators = [env.ale for env in envs]
        self._codes = envs[0].action_mapping.astype(np.intc)
        # Frames are the whole cost: the library's own call takes 0.75 of the time of its Python front.
        self._advance = ale_lib.actMulti
        self._screen = np.zeros((*reversed(self._emulators[0].getScreenDims()), 1), np.uint8)
        self._stacks = np.zeros((2 * num_games, FRAME_STACK, FRAME_SIZE, FRAME_SIZE), np.uint8)
        self.stepping = ""

    def play(self, actions: Array, begins: Mapping[int, int]) -> Moment:
        """``FRAME_SKIP`` frames of every game."""
        moment = Moment.blank(self._spec, 2 * len(self._emulators))
        self._stacks[:, :-1] = self._stacks[:, 1:]
        codes = self._codes[actions]
        for game, emulator in enumerate(self._emulators):
            self.stepping = f"game {game}"
            slots = slice(2 * game, 2 * game + 2)
            if (seed := begins.get(game)) is not None:
                self._begin(emulator, seed)
                self._stacks[slots] = 0
            else:
                moment.reward[slots] = self._frames(emulator, codes[slots], FRAME_SKIP)
                moment.terminated[slots] = emulator.game_over()
            self._see(emulator, slots)
        moment.observation[OBSERVATION][...] = self._stacks
        return moment

    def _begin(self, emulator: Any, seed: int) -> None:
        emulator.reset_game()
        self._frames(emulator, self._codes[[0, 0]], int(np.random.default_rng(seed).integers(MAX_NOOPS + 1)))

    def _frames(self, emulator: Any, codes: Array, count: int) -> Array:
        """The players' points in ``count`` frames, or in fewer if the game ends."""
        points = np.zeros(2, np.int64)
        taken, scored = np.ctypeslib.as_ctypes(codes), (ctypes.c_int * 2)()
        for _ in range(count):
            self._advance(emulator.obj, taken, scored)
            points += scored[:]
            if emulator.game_over():
                break
        return points

    def _see(self, emulator: Any, slots: slice) -> None:
        """Append the screen to the stacks of both players."""
        field = emulator.getScreenGrayscale(self._screen)[FIELD, :, 0]
        # Paddles and ball are brighter than the field: the maximum keeps the edge of what moves by a single pixel.
        field = np.maximum(field[::2], field[1::2])
        field = np.maximum(field[:, ::2], field[:, 1::2])
        inner = self._stacks[slots, -1, BORDER:-BORDER, BORDER:-BORDER]
        inner[0] = field
        inner[1] = field[:, ::-1]

    def picture(self) -> Array:
        """The screen of game 0 in color."""
        return self._emulators[0].getScreenRGB()  # type: ignore[no-any-return]

    def close(self) -> None:
        """Leave the emulators to the garbage collector: another thread may be in one."""
        self._emulators = []
