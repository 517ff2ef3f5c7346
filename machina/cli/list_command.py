"""``machina list``."""

from __future__ import annotations

from machina.cli.options import parse
from machina.config import Config
from machina.envs.atari_games import ATARI57
from machina.envs.builders import ENVIRONMENTS, TOY_TASKS
from machina.envs.games.table import GAMES
from machina.registry import ALGORITHMS, shipped_configurations


class ListOptions(Config):
    """Algorithms, environments and configurations, one line each."""


def run(arguments: list[str]) -> int:
    """Print the tables."""
    parse(ListOptions, arguments, "machina list")
    print("algorithms")
    _rows({name: entry.summary for name, entry in ALGORITHMS.items()})
    print("\nenvironments")
    own = dict.fromkeys(ENVIRONMENTS, "registered")
    _rows(
        {
            "atari57": "all 57 Atari games, one agent",
            "GAME": "one Atari game: " + ", ".join(ATARI57[:4]) + ", …",
            "GAME,GAME,…": "a set of games, one agent",
            "ID": "any gymnasium id: CartPole-v1, LunarLander-v3, …",
            "MODULE:ID": "an environment of your own, registered with gymnasium by MODULE",
            "pettingzoo:ID": "any PettingZoo id: pettingzoo:classic/tictactoe-v3, …",
            "MODULE": "a PettingZoo module: mpe2.simple_spread_v3, …",
            "MODULE:env": "a PettingZoo environment of your own; MODULE:parallel_env for simultaneous moves",
        }
        | {name: f"game: {game.summary}" for name, game in GAMES.items()}
        | {
            name: f"toy with {len(tasks)} task{'s' * (len(tasks) > 1)} and a known best return"
            for name, tasks in TOY_TASKS.items()
        }
        | own
    )
    print("  games: " + ", ".join(ATARI57))
    print("\nconfigurations")
    _rows({name: _summary(path.read_text(encoding="utf-8")) for name, path in sorted(shipped_configurations().items())})
    return 0


def _summary(text: str) -> str:
    """The comment on a configuration's first line."""
    first = text.splitlines()[0] if text else ""
    return first.removeprefix("#").strip()


def _rows(rows: dict[str, str]) -> None:
    width = max(map(len, rows), default=0)
    for name, line in rows.items():
        print(f"  {name:{width}}  {line}")
