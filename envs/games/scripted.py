"""Players that no one trained: fixed points for ratings. Stateless functions of what B slots see."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from machina.envs.games.battle import ATTACKS, MOVES, VIEW
from machina.envs.games.connect_four import COLUMNS, LINES, ROWS
from machina.envs.games.simple_tag import SELF, UNITS
from machina.envs.games.table import GAMES
from machina.specs import ActionSpec
from machina.types import ACTION_MASK, OBSERVATION, Array, BoolArray, FloatArray, IntArray, Observation

Rule = Callable[[Observation, IntArray, FloatArray], Array]
"""Takes what B slots see, their roles ``[B]`` and numbers ``[B, *action.shape]`` in [0, 1); returns their actions
``[B, *action.shape]``. Slots that are not on turn get an action without meaning."""


def random_player(action: ActionSpec) -> Rule:
    """Every allowed choice is as likely as the others; real numbers are uniform between their bounds."""
    return functools.partial(_random, action)


def _random(action: ActionSpec, observation: Observation, task_id: IntArray, uniforms: FloatArray) -> Array:  # noqa: ARG001
    if action.kind == "continuous":
        return 2 * uniforms - 1
    num_slots = len(uniforms)
    allowed = observation.get(ACTION_MASK, np.ones((num_slots, action.num_parameters), np.bool_))
    parts = np.split(allowed, np.cumsum(action.choices)[:-1], axis=1)
    columns = uniforms.reshape(num_slots, -1).T
    picks = [_pick(part, column) for part, column in zip(parts, columns, strict=True)]
    return np.stack(picks, axis=1).reshape(uniforms.shape)


def _pick(candidates: Array, uniforms: FloatArray) -> IntArray:
    """``[B]``: one of the candidates ``[B, A]`` bool, all as likely; 0 where there are none."""
    count = candidates.sum(axis=1)
    rank = np.minimum((uniforms * count).astype(np.int64), count - 1)
    picked: IntArray = np.argmax(np.cumsum(candidates, axis=1) > rank[:, None], axis=1)
    return picked


def one_ply(observation: Observation, task_id: IntArray, uniforms: FloatArray) -> Array:  # noqa: ARG001
    """Connect Four: wins if it can with this move, else stops the other from winning with the next, else random."""
    pieces = observation[OBSERVATION].astype(np.bool_).reshape(-1, ROWS * COLUMNS, 2)
    own, other, allowed = pieces[..., 0], pieces[..., 1], observation[ACTION_MASK]
    taken = own | other
    rows = ROWS - 1 - taken.reshape(-1, ROWS, COLUMNS).sum(axis=1)
    cells = np.maximum(rows, 0) * COLUMNS + np.arange(COLUMNS)
    wins = np.take_along_axis(_completing(own, taken), cells, axis=1) & allowed
    blocks = np.take_along_axis(_completing(other, taken), cells, axis=1) & allowed
    best = np.where(wins.any(axis=1, keepdims=True), wins, blocks)
    return _pick(np.where(best.any(axis=1, keepdims=True), best, allowed), uniforms)


def _completing(own: BoolArray, taken: BoolArray) -> BoolArray:
    """``[B, 42]``: empty cells with which three of a player's pieces ``[B, 42]`` become four in a row."""
    open_lines = (own[:, LINES].sum(axis=2) == 3)[:, :, None] & ~taken[:, LINES]
    slots, lines, places = np.nonzero(open_lines)
    result = np.zeros_like(own)
    result[slots, LINES[lines, places]] = True
    return result


def chase(observation: Observation, task_id: IntArray, uniforms: FloatArray) -> Array:  # noqa: ARG001
    """Simple tag: adversaries run to where the agent is going, the agent runs from all of them and from the edge."""
    position, units = observation[SELF][:, 2:], observation[UNITS]
    offset, velocity, kind = units[..., :2], units[..., 2:4], units[..., 4:]
    ahead = ((offset + 0.3 * velocity) * kind[..., 1:2]).sum(axis=1)
    nearness = kind[..., :1] / np.maximum(np.square(offset).sum(axis=-1, keepdims=True), 1e-4)
    away = -(offset * nearness).sum(axis=1) - 20 * np.sign(position) * np.maximum(np.abs(position) - 0.6, 0)
    wanted = np.where(task_id[:, None] == 0, ahead, away)
    sideways = np.abs(wanted[:, 0]) > np.abs(wanted[:, 1])
    return np.where(sideways, np.where(wanted[:, 0] < 0, 1, 2), np.where(wanted[:, 1] < 0, 3, 4))


_CENTER = VIEW // 2
_FROM_CENTER = np.arange(VIEW) - _CENTER
_OFFSETS = np.stack(np.meshgrid(_FROM_CENTER, _FROM_CENTER), axis=-1).reshape(-1, 2)
"""``[169, 2]``: to the right and down, of every cell that is seen."""


def _seen_at(steps: tuple[tuple[int, int], ...]) -> IntArray:
    """Indices of the cells at these offsets."""
    return np.array([(_CENTER + down) * VIEW + _CENTER + right for right, down in steps])


def nearest(observation: Observation, task_id: IntArray, uniforms: FloatArray) -> Array:  # noqa: ARG001
    """Battle: attacks the weakest enemy beside it, else goes to the nearest one, else away from the nearer wall."""
    seen = observation[OBSERVATION].reshape(-1, VIEW * VIEW, 5)
    walls, friends, enemies, health = seen[..., 0] > 0, seen[..., 1] > 0, seen[..., 3] > 0, seen[..., 4]
    beside = _seen_at(ATTACKS)
    weakest = np.argmin(np.where(enemies[:, beside], health[:, beside], np.inf), axis=1)
    distance = np.square(_OFFSETS).sum(axis=1)
    target = _OFFSETS[np.argmin(np.where(enemies, distance, np.inf), axis=1)]
    to_the_right: IntArray = -np.matmul(walls, np.sign(_OFFSETS[:, 0]), dtype=np.int64)
    blind = np.stack([_CENTER * np.sign(to_the_right), np.zeros_like(to_the_right)], axis=1)
    target = np.where(enemies.any(axis=1, keepdims=True), target, blind)
    ways = np.array(MOVES)
    blocked = (walls | friends | enemies)[:, _seen_at(MOVES)] & ways.any(axis=1)
    left = np.square(ways - target[:, None]).sum(axis=-1) + uniforms[:, None] * ((ways @ (3, 1)) % 5) / 5
    move = np.argmin(np.where(blocked, np.inf, left), axis=1)
    lost = ~enemies.any(axis=1) & (to_the_right == 0)
    move = np.where(lost, (uniforms * len(MOVES)).astype(np.int64), move)
    return np.where(enemies[:, beside].any(axis=1), len(MOVES) + weakest, move)


BALL_GREY, FIELD_GREY = 236, 87
OWN_COLUMNS = slice(72, 74)
"""Where a player's own paddle is in what it sees."""
_SERVE, _UP, _DOWN = 1, 2, 3


def follow(observation: Observation, task_id: IntArray, uniforms: FloatArray) -> Array:  # noqa: ARG001
    """Pong: the paddle follows the ball, and serves when there is none."""
    frame = observation[OBSERVATION][:, -1]
    ball, paddle = frame == BALL_GREY, (frame > FIELD_GREY) & (frame < BALL_GREY)
    down = _mean_row(ball) - _mean_row(paddle[:, :, OWN_COLUMNS])
    move = np.where(down < -1, _UP, np.where(down > 1, _DOWN, 0))
    return np.where(ball.any(axis=(1, 2)), move, _SERVE)


def _mean_row(pixels: Array) -> Array:
    """``[B]``: of the pixels ``[B, H, W]`` that are set; 0 without any."""
    rows = pixels.sum(axis=2)
    means: Array = rows @ np.arange(rows.shape[1]) / np.maximum(rows.sum(axis=1), 1)
    return means


def _players(game: str, name: str, player: Rule) -> dict[str, Rule]:
    return {"random": random_player(GAMES[game].action), name: player}


SCRIPTED: dict[str, dict[str, Rule]] = {
    "connect_four": _players("connect_four", "one_ply", one_ply),
    "simple_tag": _players("simple_tag", "chase", chase),
    "battle": _players("battle", "nearest", nearest),
    "pong_duel": _players("pong_duel", "follow", follow),
}
"""The scripted players of each shipped game, by name."""

POINTS = {"random": 0.0, "one_ply": 9.4, "chase": 8.6, "nearest": 72.9, "follow": 30.1}
"""How strong the scripted players are, in points of the ratings, and held fixed, so that ratings mean the same in every
run: measured by ``benchmarks/anchors.py``, +-2.5 points (nearest by 1600 games a step, follow by 256: +-3.2)."""
