"""``machina train``."""

from __future__ import annotations

from machina.cli.options import leading_names, parse, taken_option
from machina.launch.configuration import job_config
from machina.registry import ALGORITHMS, shipped_configurations


def run(arguments: list[str]) -> int:
    """Train a policy in a new run directory."""
    configuration, arguments = taken_option(arguments, "--config")
    names, options = leading_names(arguments, 2)
    if len(names) < 2 and configuration is None and {"--help", "-h"} & set(options):
        print(_usage())
        return 0
    algorithm, environment = [*names, None, None][:2]
    config, source = job_config(algorithm, environment, configuration)
    program = f"machina train {config.algorithm} {config.environment}"
    text = f"Train a policy; values not given come from {source}, or from what --config NAME|FILE|defaults says."
    config = parse(type(config), options, program, default=config, text=text)

    from machina.jobs.train import train

    train(config, source)
    return 0


def _usage() -> str:
    return (
        "usage: machina train ALGORITHM ENVIRONMENT [--config NAME|FILE] [OPTIONS]\n\n"
        f"algorithms:      {', '.join(ALGORITHMS)}\n"
        "environments:    atari57, a game (pong), games (pong,breakout), a gymnasium id (CartPole-v1),\n"
        "                 your own (my_package:MyEnv-v0); see machina list\n"
        f"configurations:  {', '.join(sorted(shipped_configurations()))}\n\n"
        "`machina train impala pong --help` lists every option of a job."
    )
