"""``machina match``."""

from __future__ import annotations

from pydantic import Field
from tyro.conf import Positional

from machina.cli.options import parse
from machina.config import Config, Episodes, Seed
from machina.errors import UserError


class MatchOptions(Config):
    """Play a fair match between runs, their snapshots and scripted players; everybody plays every seat."""

    players: Positional[tuple[str, ...]] = Field(
        description="One per team: RUN (its latest checkpoint), RUN@best, RUN@u000400 (a snapshot of its league), "
        "random, or the game's heuristic, such as one_ply."
    )
    games: Episodes = Field(default=200, description="Games in all.")
    seed: Seed = Field(default=0, description="Seeds the game and the players' actions.")
    game: str | None = Field(default=None, description="Which game, where no run among the players determines it.")


def run(arguments: list[str]) -> int:
    """Play the match, print its table, and say where the result is."""
    options = parse(MatchOptions, arguments, "machina match")
    if not options.players:
        raise UserError("match needs a player per team: machina match runs/NAME one_ply")

    from rich.console import Console

    from machina.cli.progress_bar import progress_of
    from machina.jobs.match import lineup, match_rows, parse_player
    from machina.league.table import match_table

    console = Console()
    chosen = lineup([parse_player(text) for text in options.players], options.game)
    with progress_of("games", console) as progress:
        result = chosen.play(options.games, options.seed, progress)
    title = f"{result.environment}, {len(result.games)} games, seed {result.seed}"
    console.print(match_table(title, match_rows(result, chosen.factory.spec)))
    if result.unequal_seats:
        console.print(result.unequal_seats, highlight=False, soft_wrap=True)
    if (file := chosen.save(result)) is not None:
        print(file)
    return 0
