"""`machina train`: a new run."""

from __future__ import annotations

import itertools
import shutil
import time
from contextlib import suppress

from machina.checkpoint import RunDirectory
from machina.checkpoint.files import as_file_name
from machina.checkpoint.run_directory import RunExistsError, load_from
from machina.config import LeagueConfig
from machina.errors import UserError
from machina.jobs.loaded_run import checked
from machina.jobs.session import run_session
from machina.launch.configuration import AnyRunConfig
from machina.launch.ending import Outcome
from machina.launch.plan import plan_run
from machina.launch.saved_state import SavedState, checkpoint_state
from machina.launch.sizes import check_batch_fills, check_memory
from machina.nets.config import NetworkConfig, QNetworkConfig, TorsoConfig
from machina.nets.reading import read
from machina.report.output import steady_output
from machina.specs import EnvSpec
from machina.yaml_files import to_yaml


def train(config: AnyRunConfig, source: str = "the caller") -> tuple[RunDirectory, Outcome]:
    """Train in a new run directory.

    Args:
        config: the resolved configuration, see ``machina.launch.configuration.job_config``.
        source: where its values come from; shown.

    Raises:
        UserError: something of the configuration is unusable; then no run directory is left behind.
        RunFailedError: the run stopped for a fault; a checkpoint was written.
    """
    _check_league(config)
    plan = plan_run(config)
    _check_network(config, plan.spec)
    check_batch_fills(plan)
    check_memory(plan)
    initial = None if config.init_from is None else checked(load_from(config.init_from))
    if initial is not None:
        _check_initial(config, checkpoint_state(initial))
    config, run = _new_run(config)
    try:
        with run.held(), steady_output():
            return run, run_session(plan._replace(config=config), run, None, initial, source)
    except UserError:
        if not any(run.checkpoints.iterdir()):  # the name stays free for the corrected command
            shutil.rmtree(run.path)
        raise


def _check_initial(config: AnyRunConfig, state: SavedState) -> None:
    """Refuse to start from a network of another kind, which no option can make fit.

    Raises:
        UserError: it is, or value heads are asked for that there are none of.
    """
    network, theirs = getattr(config.algo, "network", None), state.identity.network
    if not isinstance(network, TorsoConfig):
        return
    if theirs and theirs.keys() != network.model_dump().keys():
        raise UserError(
            f"init_from='{config.init_from}': a run of {state.identity.algorithm}, whose network is of another kind "
            f"than that of {config.algorithm}; give a run of {config.algorithm}"
        )
    if config.init_value and isinstance(network, QNetworkConfig):
        raise UserError("init_value: a Q-network has no value heads, its action values are taken anyway; leave it out")


def _new_run(config: AnyRunConfig) -> tuple[AnyRunConfig, RunDirectory]:
    """The directory of a new run, and the configuration with its name; two that start in the same second get two."""
    if config.name is not None:
        return config, RunDirectory.create(config.runs_dir, config.name, to_yaml(config))
    moment = f"{config.algorithm}_{as_file_name(config.environment)}_{time.strftime('%Y%m%d-%H%M%S')}"
    for number in itertools.count(1):
        name = moment if number == 1 else f"{moment}-{number}"
        named = config.model_copy(update={"name": name})
        with suppress(RunExistsError):
            return named, RunDirectory.create(named.runs_dir, name, to_yaml(named))
    raise AssertionError("unreachable")


def _check_league(config: AnyRunConfig) -> None:
    """Refuse options of a league where none is played."""
    given, unused = config.league.model_dump(), LeagueConfig().model_dump()
    if config.league.snapshot_updates is not None or given == unused:
        return
    options = ", ".join(f"{name}={value}" for name, value in given.items() if value != unused[name])
    raise UserError(
        f"{options}: no league without snapshot_updates; use `machina league {config.environment}`, or leave it out"
    )


def _check_network(config: AnyRunConfig, spec: EnvSpec) -> None:
    """Refuse options of the network that have no effect in this environment; in a network of the user's own they may.

    Not where a run continues: in its checkpoint they are part of the network's identity.
    """
    network = getattr(config.algo, "network", None)
    if not isinstance(network, TorsoConfig) or getattr(network, "network_name", None) is not None:
        return
    reading = read(spec, network)
    refusals = []
    if network.image_layout != "auto" and all(image.layout == "HW" for image in reading.images.values()):
        refusals.append(
            f"image_layout={network.image_layout}: no array of {spec.name!r} is read as an image with channels"
        )
    divisor = network.observation_divisor
    if divisor is not None:
        halved = network.model_copy(update={"observation_divisor": divisor / 2})
        if read(spec, halved).scales == reading.scales:
            refusals.append(f"observation_divisor={divisor:g}: {spec.name!r} gives neither bytes nor images to divide")
    if isinstance(network, NetworkConfig) and network.initial_log_deviation != 0 and spec.action.kind != "continuous":
        refusals.append(
            f"initial_log_deviation={network.initial_log_deviation:g}: actions of {spec.name!r} are choices"
        )
    if refusals:
        raise UserError(f"{refusals[0]} ({reading.describe(spec)}); leave it out")
