"""Connect Four: many boards as arrays, the rules of PettingZoo's ``connect_four_v3``.

PettingZoo's makes 6,000 turns a second in the time in which 64 of these boards make 140,000.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from machina.envs.games.multi_agent import Moment
from machina.specs import EnvSpec
from machina.types import ACTION_MASK, OBSERVATION, Array, BoolArray, IntArray

ROWS, COLUMNS = 6, 7

CELL_PIXELS = 48
"""Edge of a board's cell in a picture."""
_BLUE, _WHITE, _RED, _YELLOW = (32, 72, 160), (240, 240, 240), (208, 48, 48), (240, 208, 64)


def _all_lines() -> IntArray:
    """``[69, 4]``: the cells (row times 7 plus column) of every four in a row."""
    lines = [
        [(row + i * down) * COLUMNS + column + i * right for i in range(4)]
        for down, right in ((0, 1), (1, 0), (1, 1), (-1, 1))
        for row in range(ROWS)
        for column in range(COLUMNS)
        if 0 <= row + 3 * down < ROWS and column + 3 * right < COLUMNS
    ]
    return np.array(lines)


LINES = _all_lines()


class ConnectFour:
    """N boards; the players drop pieces in turn, four in a row wins: +1 for the winner, -1 for the loser.

    Observation ``[6, 7, 2]`` int8, top row first: the player's own pieces and the other's. Allowed are the columns
    that are not full, to the player on turn.
    """

    never_hangs = True

    def __init__(self, num_games: int, spec: EnvSpec) -> None:
        self._spec = spec
        self._pieces: BoolArray = np.zeros((num_games, 2, ROWS * COLUMNS), np.bool_)
        """``[N, player, cell]``."""
        self._player: IntArray = np.zeros(num_games, np.int64)
        """``[N]``: who moves next."""
        self._games = np.arange(num_games)
        self.stepping = ""

    def play(self, actions: Array, begins: Mapping[int, int]) -> Moment:
        """One move on every board."""
        begun = np.zeros(len(self._games), np.bool_)
        begun[list(begins)] = True
        moment = Moment.blank(self._spec, 2 * len(self._games))
        games, player = self._games[~begun], self._player[~begun]
        columns = actions.reshape(-1, 2)[games, player]
        # A piece falls onto the column's topmost one.
        taken: BoolArray = np.logical_or(self._pieces[games, 0], self._pieces[games, 1])
        filled = taken.reshape(-1, ROWS, COLUMNS)[np.arange(len(games)), :, columns]
        self._pieces[games, player, (ROWS - 1 - filled.sum(axis=1)) * COLUMNS + columns] = True
        self._pieces[begun] = False
        self._player[games] = 1 - player
        self._player[begun] = 0
        wins = has_four(self._pieces[games, player])
        moment.reward.reshape(-1, 2)[games, player] = wins
        moment.reward.reshape(-1, 2)[games, 1 - player] -= wins
        over = np.zeros_like(begun)
        over[games] = wins | (taken.sum(axis=1) == ROWS * COLUMNS - 1)
        moment.terminated[:] = over.repeat(2)
        self._show(moment, over)
        return moment

    def _show(self, moment: Moment, over: BoolArray) -> None:
        """Fill in what both players see, and who moves."""
        planes = self._pieces.reshape(-1, 2, ROWS, COLUMNS).transpose(0, 2, 3, 1)
        observation = moment.observation[OBSERVATION].reshape(-1, 2, ROWS, COLUMNS, 2)
        observation[:, 0] = planes
        observation[:, 1] = planes[..., ::-1]
        moment.on_turn[:] = False
        moment.on_turn.reshape(-1, 2)[self._games, self._player] = ~over
        top_is_free = ~self._pieces[:, :, :COLUMNS].any(axis=1)
        moment.observation[ACTION_MASK].reshape(-1, 2, COLUMNS)[self._games, self._player] = top_is_free

    def get_state(self) -> dict[str, Array]:
        """A copy of the boards, and who moves next."""
        return {"pieces": self._pieces.copy(), "player": self._player.copy()}

    def set_state(self, state: Mapping[str, Array]) -> None:
        """Continue from ``get_state``."""
        self._pieces = state["pieces"].astype(np.bool_)
        self._player = state["player"].astype(np.int64)

    def picture(self) -> Array:
        """Board 0, the first player's pieces red."""
        return draw_board(self._pieces[0])

    def close(self) -> None:
        """Nothing to release."""


def has_four(pieces: BoolArray) -> BoolArray:
    """``[N]``: whether the cells ``[N, 42]`` of one player hold four in a row."""
    found: BoolArray = np.any(pieces[:, LINES].sum(axis=2) == LINES.shape[1], axis=1)
    return found


def draw_board(pieces: BoolArray) -> Array:
    """``[6 * 48, 7 * 48, 3]`` uint8 from the cells ``[2, 42]`` of the players."""
    color = np.where(pieces[0][:, None], _RED, np.where(pieces[1][:, None], _YELLOW, _WHITE)).reshape(ROWS, COLUMNS, 3)
    offset = np.arange(CELL_PIXELS) - (CELL_PIXELS - 1) / 2
    disc = np.hypot(offset[:, None], offset) < 0.42 * CELL_PIXELS
    cells: Array = np.where(disc[None, :, None, :, None], color[:, None, :, None, :], _BLUE)
    return cells.reshape(ROWS * CELL_PIXELS, COLUMNS * CELL_PIXELS, 3).astype(np.uint8)
