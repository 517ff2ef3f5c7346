"""How strong the scripted players are above random play, in points of the ratings.

``python benchmarks/anchors.py --games 400``: a heuristic beats random play in nearly every game, which says little but
that it is much stronger. So it is measured in steps: players that follow the heuristic in a share of their moves, each
against the next. The figures stand in ``machina.envs.games.scripted.POINTS``.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from machina.envs.builders import parse_environment
from machina.envs.config import GameConfig
from machina.envs.games.scripted import SCRIPTED, Rule
from machina.league.ratings import Ratings
from machina.play.matches import MatchResult, RulePlayer, play_match
from machina.types import Array, FloatArray, IntArray, Observation

SHARES = (0.0, 1 / 64, 1 / 32, 1 / 16, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


def diluted(heuristic: Rule, random: Rule, share: float) -> Rule:
    """Follows the heuristic in ``share`` of its moves."""

    def choose(observation: Observation, task_id: IntArray, uniforms: FloatArray) -> Array:
        # The leading digits decide who moves, the following ones how.
        stretched = uniforms * np.float32(64)
        follows = np.floor(stretched) < share * 64
        rest = (stretched - np.floor(stretched)).astype(np.float32)
        return np.where(follows, heuristic(observation, task_id, rest), random(observation, task_id, rest))

    return choose


def step(game: str, games: int, weaker: int) -> MatchResult:
    """One share against the next."""
    random = SCRIPTED[game]["random"]
    heuristic = list(SCRIPTED[game].values())[-1]
    players = [RulePlayer(f"{share:g}", diluted(heuristic, random, share)) for share in SHARES[weaker : weaker + 2]]
    return play_match(parse_environment(game, GameConfig()), players, games, weaker)


def measure(game: str, games: int, pool: ProcessPoolExecutor) -> None:
    """Print each step as it ends, then the points."""
    ratings = Ratings({"0": 0.0})
    steps = len(SHARES) - 1
    for weaker, played in enumerate(pool.map(step, [game] * steps, [games] * steps, range(steps))):
        for each in played.games:
            ratings.record(each.players, each.scores)
        won = played.win_rate(f"{SHARES[weaker + 1]:g}").value
        pair = f"{SHARES[weaker + 1]:g} against {SHARES[weaker]:g}"
        print(f"{game}: step {weaker + 1} of {steps}, {pair}: {won}", flush=True)
    top = next(row for row in ratings.table() if row.name == "1")
    print(f"{game}: {list(SCRIPTED[game])[-1]} {top.mu:.1f} +- {2 * top.sigma:.1f}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--games", type=int, default=400, help="of each step")
    parser.add_argument("--names", nargs="*", default=list(SCRIPTED))
    options = parser.parse_args()
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        for game in options.names:
            measure(game, options.games, pool)


if __name__ == "__main__":
    main()
