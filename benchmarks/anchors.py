"""How strong the scripted players are above random play, in points of the ratings.

``python benchmarks/anchors.py --games 400``: a heuristic beats random play in nearly every game, which says little but
that it is much stronger. So it is measured in steps: players that follow the heuristic in a share of their moves, each
against the next. The figures stand in ``machina.envs.scripted.POINTS``.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np

from machina.envs.builders import parse_environment
from machina.envs.config import GameConfig
from machina.envs.scripted import SCRIPTED, ScriptedPlayer
from machina.league.matches import ScriptedPlayer as Scripted
from machina.league.matches import play_match
from machina.league.ratings import Ratings
from machina.types import Array, FloatArray, IntArray, Observation

SHARES = (0.0, 1 / 64, 1 / 32, 1 / 16, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


def diluted(heuristic: ScriptedPlayer, random: ScriptedPlayer, share: float) -> ScriptedPlayer:
    """Follows the heuristic in ``share`` of its moves."""

    def choose(observation: Observation, task_id: IntArray, uniforms: FloatArray) -> Array:
        # The leading digits decide who moves, the following ones how.
        stretched = uniforms * np.float32(64)
        follows = np.floor(stretched) < share * 64
        rest = (stretched - np.floor(stretched)).astype(np.float32)
        return np.where(follows, heuristic(observation, task_id, rest), random(observation, task_id, rest))

    return choose


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--games", type=int, default=400)
    parser.add_argument("--names", nargs="*", default=list(SCRIPTED))
    options = parser.parse_args()
    for game in options.names:
        factory = parse_environment(game, GameConfig())
        random = SCRIPTED[game]["random"]
        name, heuristic = list(SCRIPTED[game].items())[-1]
        ratings = Ratings({"0": 0.0})
        players = [Scripted(f"{share:g}", diluted(heuristic, random, share)) for share in SHARES]
        for i, (weaker, stronger) in enumerate(itertools.pairwise(players)):
            for played in play_match(factory, [weaker, stronger], options.games, i).games:
                ratings.record(played.players, played.scores)
        rates = ratings.cross_table()
        steps = [rates.win_rates[i + 1][i] for i in range(len(players) - 1)]
        top = next(row for row in ratings.table() if row.name == "1")
        print(f"{game}: {name} {top.mu:.1f} +- {2 * top.sigma:.1f}; win rates of the steps {steps}", flush=True)


if __name__ == "__main__":
    main()
