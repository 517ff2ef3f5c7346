"""``machina record``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from machina.cli.env_options import env_config, with_env_options
from machina.cli.options import leading_names, parse, taken_option
from machina.config import Config, EnvConfig, Episodes, Seed
from machina.errors import UserError

if TYPE_CHECKING:
    from machina.jobs.record import Kept


class RecordOptions(Config):
    """Record episodes of a person at the keyboard, of a policy or of a script, a file each."""

    out: Path = Field(description="Folder of the set; what it holds already stays.")
    episodes: Episodes = Field(default=10, description="Episodes to keep; closing the window ends before.")
    seed: Seed = Field(default=0, description="Seeds resets and players; resets that the set has are left out.")
    policy: Path | None = Field(default=None, description="Run directory whose policy plays.")
    best: bool = Field(default=False, description="With --policy: the best checkpoint instead of the latest.")
    script: str | None = Field(
        default=None,
        description="random, or module:function that takes an observation and a random generator and returns an "
        "action, as the environment gives and takes them.",
    )
    person: bool = Field(default=False, description="With --policy or --script: Tab takes over and hands back.")
    keys: Path | None = Field(
        default=None, description="YAML file of keys and actions (docs/demonstrations.md); None: the environment's."
    )
    pictures: bool = Field(default=True, description="Store what the environment draws, for machina replay.")
    window_scale: float | None = Field(
        default=None, ge=0.1, le=50, description="Size of the picture in the window; None: as fits."
    )
    wrapper: str | None = Field(
        default=None, description="module:function that takes and returns a gymnasium VectorEnv; a run's own with it."
    )


def run(arguments: list[str]) -> int:
    """Record episodes, a line for each that was kept."""
    names, options = leading_names(arguments, 1)
    policy, _ = taken_option(options, "--policy")
    if not names and policy is None:
        if set(options) - {"--help", "-h"}:
            raise UserError("name an environment, as in `machina record CartPole-v1 --out demos/cartpole`")
        parse(RecordOptions, ["--help"], "machina record ENVIRONMENT")
    environment, env, wrapper = _environment(names[0] if names else None, policy)
    model = with_env_options(RecordOptions, env)
    chosen = parse(model, options, f"machina record {environment}")

    from machina.jobs.record import RecordingPlan, record

    plan = RecordingPlan(
        environment,
        env_config(chosen, env),
        **{**chosen.model_dump(include=set(RecordOptions.model_fields)), "wrapper": chosen.wrapper or wrapper},
    )
    kept, stopped = record(plan, _tell)
    if stopped:
        print(f"stopped; the unfinished episode is lost, {len(kept)} are kept in {plan.out}")
    return 0


def _environment(name: str | None, policy: str | None) -> tuple[str, EnvConfig, str | None]:
    """Name, configuration and wrapper of the environment: those of the policy's run where there is one."""
    from machina.envs.builders import describe

    if policy is None:
        assert name is not None
        return name, describe(name)(), None
    from machina.launch.configuration import saved_config

    config = saved_config(Path(policy))
    if name not in (None, config.environment):
        raise UserError(f"policy='{policy}' was trained on {config.environment}, not on {name}; leave {name} out")
    return config.environment, config.env, config.wrapper


def _tell(kept: Kept) -> None:
    print(f"{kept.file}: return {kept.episode_return:g}, {kept.length} steps", flush=True)
