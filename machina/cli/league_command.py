"""``machina league``."""

from __future__ import annotations

from machina.cli.options import leading_names, parse, taken_option
from machina.envs.games.table import GAMES
from machina.errors import UserError
from machina.launch.configuration import DEFAULTS, AnyRunConfig, job_config
from machina.registry import find_configuration, shipped_configurations
from machina.yaml_files import load_yaml

ALGORITHM = "ppo"
"""Where no configuration names another."""

SNAPSHOT_UPDATES = 100
"""Between snapshots where no configuration says it: 100,000 env steps with PPO's default batch."""


def run(arguments: list[str]) -> int:
    """Train a policy against itself and its past selves, in a new run directory."""
    configuration, arguments = taken_option(arguments, "--config")
    names, options = leading_names(arguments, 1)
    if not names and configuration is None:
        if set(options) - {"--help", "-h"}:
            raise UserError("name a game, as in `machina league connect_four`; see machina league")
        print(_usage())
        return 0
    game = names[0] if names else None
    if configuration is None and f"league_{game}" in shipped_configurations():
        configuration = f"league_{game}"
    config, source = _league_config(game, configuration)
    config = parse(
        type(config),
        options,
        f"machina league {config.environment}",
        default=config,
        text=f"Train a policy against itself and its past selves; values not given come from {source}, or from "
        "what --config NAME|FILE says.",
    )

    from machina.jobs.train import train

    train(config, source)
    return 0


def _league_config(game: str | None, configuration: str | None) -> tuple[AnyRunConfig, str]:
    """The job's configuration; snapshots are taken also where the file doesn't ask for them."""
    algorithm = ALGORITHM
    if configuration not in (None, DEFAULTS):
        algorithm = load_yaml(find_configuration(configuration)).get("algorithm", ALGORITHM)
    config, source = job_config(algorithm, game, configuration)
    if config.league.snapshot_updates is None:
        config, source = job_config(algorithm, game, configuration, league={"snapshot_updates": SNAPSHOT_UPDATES})
    return config, source


def _usage() -> str:
    width = max(map(len, GAMES))
    games = "\n".join(f"  {name:{width}}  {game.summary}" for name, game in GAMES.items())
    return (
        "usage: machina league GAME [--config NAME|FILE] [OPTIONS]\n\n"
        "Train a policy against itself and its past selves.\n\n"
        f"{games}\n\n"
        "Any PettingZoo game of two teams may stand for GAME; --teams says who is a team:\n"
        "  machina league pettingzoo.classic.tictactoe_v3 --teams agents\n"
        "  machina league magent2.environments.combined_arms_v6 --teams 'red*,blue*'\n\n"
        "`machina league connect_four --help` lists every option of a job."
    )
