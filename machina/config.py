"""Typed configuration: frozen models, unknown keys forbidden, one default per value.

A run's configuration is ``RunConfig[AlgorithmConfig subclass, EnvConfig subclass]``. YAML files in
``configs/`` hold only what differs from the defaults; the resolved tree is saved with the run.
Nothing here imports torch: ``machina train --help`` must appear at once.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from tyro.conf import Suppress

from machina.errors import UserError, nearest
from machina.ranges import OUT_OF_RANGE, number_range

LARGEST_SEED = 2**32 - 1
MOST_FRAMES = 10**15
MOST_MINUTES = 5_256_000.0
"""Ten years."""
MOST_EPISODES = 1_000_000
MOST_ACTORS = 10_000
MOST_THREADS = 1024

SOON = 100_000
"""Env steps that come in minutes; a run shorter than a batch of fewer makes its one update."""

Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Episodes = Annotated[int, Field(ge=1, le=MOST_EPISODES)]
"""Of one evaluation; games of one match."""


class Config(BaseModel):
    """Base of every configuration model, and of the options of every command.

    Every number has a least and a largest value; its description ends with them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def __pydantic_init_subclass__(cls, **keywords: Any) -> None:
        super().__pydantic_init_subclass__(**keywords)
        for field in cls.model_fields.values():
            stated = number_range(field)
            stated = f" {stated[:1].upper()}{stated[1:]}."
            if len(stated) > 2 and field.description is not None and not field.description.endswith(stated):
                field.description += stated


class AlgorithmConfig(Config):
    """What the configurations of all algorithms have in common."""

    unroll_length: int = Field(default=20, ge=1, le=1_000_000, description="T: env steps per unroll.")
    batch_size: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Unrolls per learner update; None: one of every slot (environment and agent).",
    )

    @property
    def passes(self) -> int:
        """Times that the learner goes through each batch."""
        return 1

    @property
    def policy_lag_bound(self) -> int | None:
        """Updates that parameters may lie behind if the run sets no bound; None: any number."""
        return None

    @property
    def item_length(self) -> int:
        """Env steps of each item of a batch."""
        return self.unroll_length

    def env_steps_per_update(self, batch_size: int) -> int:
        """Env steps that are collected for each update, 1 at least."""
        return batch_size * self.unroll_length

    @property
    def learns_again(self) -> bool:
        """Whether what was collected is kept to be learned from again."""
        return False

    def saves_replay(self, num_bytes: int) -> bool:  # noqa: ARG002 (nothing is kept)
        """Whether checkpoints hold what is kept so, which takes this much memory when it is full."""
        return False

    def check_batch(self, batch_size: int) -> None:
        """Refuse settings that don't fit the resolved batch size.

        Raises:
            UserError: what does not fit.
        """

    def check_length(self, total_env_steps: int, batch_size: int) -> None:
        """Refuse a run that ends before the first update.

        Raises:
            UserError: with the sizes, and what to change.
        """
        steps = self.env_steps_per_update(batch_size)
        if steps > max(total_env_steps, SOON):
            raise UserError(
                f"batch_size={batch_size}: with unroll_length={self.unroll_length} a batch is {steps:,} env steps, and "
                f"the whole run only {total_env_steps:,}; use a smaller --batch-size or --unroll-length, or more "
                "--total-frames"
            )


class EnvConfig(Config):
    """What every environment has in common."""

    envs_per_task: int = Field(
        default=16, ge=1, le=100_000, description="Environments (slots) per task, over all actors."
    )

    @property
    def frames_per_task(self) -> int:
        """Length of the default schedule, in frames per task."""
        return 4_000_000


class RuntimeConfig(Config):
    """Where actors and learner run, and with how many threads. None derives the number from this machine."""

    place: Literal["inline", "local", "ray"] = Field(
        default="local",
        description="inline: one thread, fixed order, repeatable. local: actor and learner threads. ray: processes "
        "of this machine or of a Ray cluster.",
    )
    actors: int | Literal["auto"] = Field(
        default=1,
        description="Actors, each with its environments. auto (place ray): as many as the cluster has free CPUs, "
        f"growing and shrinking with it. 1 to {MOST_ACTORS}.",
    )
    address: str | None = Field(
        default=None, description="Ray cluster to join (auto or HOST:PORT); None starts one on this machine."
    )
    cpus_per_actor: float = Field(
        default=1.0, gt=0, le=1024, description="CPUs of the Ray cluster that each actor takes."
    )
    learners: int = Field(
        default=1, ge=1, le=1024, description="Learner ranks, a GPU each where there are GPUs; they share each batch."
    )
    max_policy_lag: int | None = Field(
        default=None,
        ge=0,
        le=10**9,
        description="Unrolls whose parameters are older than this many updates are dropped; None: the algorithm's own "
        "bound, 1 for PPO and PQN, none for IMPALA.",
    )
    device: str = Field(default="auto", description="Learner's device: auto, cpu, cuda or cuda:N.")
    actor_device: str | None = Field(default=None, description="Actors' device; None is the learner's.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="auto: bfloat16 where the device has fast units for it and an observation has 4 KiB or more; else "
        "float32.",
    )
    actor_threads: int | None = Field(default=None, ge=1, le=MOST_THREADS, description="Torch threads per actor.")
    learner_threads: int | None = Field(
        default=None, ge=1, le=MOST_THREADS, description="Torch threads of the learner."
    )
    env_threads: int | None = Field(
        default=None, ge=1, le=MOST_THREADS, description="Threads that step one game's environments."
    )
    queue_unrolls: int | None = Field(
        default=None,
        ge=1,
        le=10**7,
        description="Unrolls that may wait for the learner; actors wait when there are more. Place ray: besides a "
        "round of every actor.",
    )
    lock_step: bool = Field(
        default=False, description="Actors and learner take turns, one published version per round: repeatable."
    )
    step_timeout_s: float = Field(
        default=60.0,
        gt=0,
        le=604_800,
        description="Seconds after which an environment step counts as hung and is replaced.",
    )
    max_restarts: int = Field(
        default=10,
        ge=0,
        le=10**6,
        description="Replaced environments and actors, or learner restarts, before the run stops.",
    )

    @model_validator(mode="after")
    def _fits_the_place(self) -> RuntimeConfig:
        if self.actors != "auto" and not 1 <= self.actors <= MOST_ACTORS:
            raise ValueError(f"actors={self.actors}: must be 1 to {MOST_ACTORS}, or auto in place ray")
        if self.place != "ray":
            if self.actors == "auto":
                raise ValueError(f"actors=auto needs place=ray; give place {self.place} a number")
            if self.address is not None:
                raise ValueError(f"address={self.address!r} needs place=ray")
        if self.place == "inline" and self.learners > 1:
            raise ValueError(f"learners={self.learners} needs place=local or ray; inline is one thread")
        return self


class LeagueConfig(Config):
    """Self-play against past selves; pool_share and quality_step are OpenAI Five's (Berner et al. 2019, appendix N)."""

    snapshot_updates: int | None = Field(
        default=None,
        ge=1,
        le=10**9,
        description="Updates from one snapshot of the policy, which joins the pool, to the next; None: no league, the "
        "policy plays itself.",
    )
    pool_share: float = Field(
        default=0.2, ge=0, le=1, description="Share of games against the pool; the others are against the present self."
    )
    quality_step: float = Field(
        default=0.01, ge=0, le=1000, description="eta: a win lowers the beaten snapshot's quality by eta / (N p)."
    )
    opponents_in_memory: int = Field(
        default=4,
        ge=1,
        le=10_000,
        description="Different opponents whose parameters an actor holds at once, each with a network pass of its "
        "own. If they are fewer than its games against the pool, rarely drawn snapshots are met even more rarely; with "
        "1 there are fewer such games than pool_share.",
    )
    rating_games: int = Field(
        default=40,
        ge=2,
        le=MOST_EPISODES,
        description="Most games that every snapshot plays for its rating, both seats together.",
    )


A = TypeVar("A", bound=AlgorithmConfig)
E = TypeVar("E", bound=EnvConfig)


class RunConfig(Config, Generic[A, E]):
    """One training run."""

    # Arguments of the command line, not options.
    algorithm: Annotated[str, Suppress] = Field(description="Algorithm, see `machina list`.")
    environment: Annotated[str, Suppress] = Field(description="Environment, see `machina list`.")
    name: str | None = Field(default=None, description="Name of the run; None makes one from the job and the time.")
    runs_dir: Path = Field(default=Path("runs"), description="Folder that holds the run directories.")
    seed: Seed = Field(default=1, description="Seeds every random stream of the run.")
    minutes: float | None = Field(
        default=None, gt=0, le=MOST_MINUTES, description="Stop after this wall time (schedules unchanged)."
    )
    total_frames: int | None = Field(
        default=None,
        ge=1,
        le=MOST_FRAMES,
        description="Length of the run and of its schedules, in frames; None: the task's default.",
    )
    until_return: float | None = Field(
        default=None,
        ge=-1e30,
        le=1e30,
        description="Stop when the mean return of the last 100 training episodes reaches this.",
    )
    eval_every: int | None = Field(
        default=None, ge=1, le=MOST_FRAMES, description="Frames between evaluations; None: no evaluations."
    )
    eval_episodes: Episodes = Field(default=10, description="Episodes per task in each evaluation.")
    checkpoint_minutes: float = Field(default=5.0, gt=0, le=MOST_MINUTES, description="Minutes between checkpoints.")
    keep_checkpoints: int = Field(
        default=3, ge=1, le=10**6, description="Latest checkpoints kept; the best is kept as well."
    )
    log_seconds: float = Field(default=5.0, gt=0, le=604_800, description="Seconds between lines of metrics.jsonl.")
    init_from: Path | None = Field(default=None, description="Run or checkpoint whose policy starts this run.")
    init_value: bool = Field(default=False, description="With --init-from: take the value heads as well; not of pqn.")
    wrapper: str | None = Field(
        default=None, description="module:function that takes and returns a gymnasium VectorEnv, in every command."
    )
    algo: A
    env: E
    runtime: RuntimeConfig = RuntimeConfig()
    league: LeagueConfig = LeagueConfig()

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig[A, E]:
        if self.init_value and self.init_from is None:
            raise ValueError("init_value needs init_from, the run whose value heads are taken")
        if self.eval_every is not None and self.league.snapshot_updates is not None:
            raise ValueError(
                f"eval_every={self.eval_every}: against itself a policy's returns say nothing about its strength; "
                "leave it out, a league rates its snapshots instead (rating_games)"
            )
        return self


def option_paths(model: type[BaseModel], path: tuple[str, ...] = ()) -> dict[str, tuple[str, ...]]:
    """Every option's name and the sections that lead to it."""
    paths: dict[str, tuple[str, ...]] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            paths |= option_paths(field.annotation, (*path, name))
        elif not field.is_required():  # required ones are arguments, not options
            paths[name] = path
    return paths


MOST_REFUSALS = 4
"""Refused values that one line names; a damaged file may hold thousands."""

_short = reprlib.Repr()
_short.maxlevel, _short.maxstring, _short.maxlong, _short.maxother = 3, 100, 60, 100


def one_line(error: ValidationError, where: str = "", model: type[BaseModel] | None = None) -> str:
    """A pydantic refusal as one line: every field, its value and what is expected; nearest names for typos.

    Args:
        error: as caught.
        where: what the values come from.
        model: whose fields state the range of a number; None where none is stated.
    """
    parts = []
    items = error.errors(include_url=False)
    for item in items[:MOST_REFUSALS]:
        field = ".".join(_key(part) for part in item["loc"]) or "value"
        if item["type"] == "extra_forbidden":
            parts.append(f"unknown key '{field}'")
        elif item["type"] == "missing":
            parts.append(f"missing key '{field}'")
        elif item["type"] == "value_error":  # of a whole section: its validator names fields and values
            parts.append(str(item["ctx"]["error"]))
        elif item["type"] == "json_invalid":
            parts.append(f"{item['msg'][:1].lower()}{item['msg'][1:]}")
        else:
            stated = _stated_range(model, item["loc"]) if item["type"] in OUT_OF_RANGE else ""
            expected = f"must be {stated}" if stated else f"{item['msg'][:1].lower()}{item['msg'][1:]}"
            parts.append(f"{field}={_short.repr(item['input'])}: {expected}")
    if len(items) > MOST_REFUSALS:
        parts.append(f"and {len(items) - MOST_REFUSALS} more")
    return (f"{where}: " if where else "") + "; ".join(parts)


def _key(part: object) -> str:
    """A key of a file: of any length, and with whatever characters somebody put there."""
    text = str(part)
    return text if len(text) < 100 and text.isprintable() else _short.repr(text)


def _stated_range(model: type[BaseModel] | None, path: Sequence[int | str]) -> str:
    """The range of the field at ``path``; from a command line it comes without the sections that lead to it."""
    if model is not None and path[0] not in model.model_fields:
        path = (*option_paths(model).get(str(path[0]), ()), *path)
    for part in path:
        field = None if model is None else model.model_fields.get(str(part))
        if field is None:
            return ""
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return number_range(field)
        model = field.annotation
    return ""


def merged(defaults: dict[str, Any], changes: dict[str, Any], where: str, path: str = "") -> dict[str, Any]:
    """``defaults`` with ``changes`` laid over, key by key through nested sections.

    Raises:
        UserError: a key of ``changes`` that the defaults do not know, with the nearest name.
    """
    result = dict(defaults)
    for key, value in changes.items():
        if key not in defaults:
            raise UserError(f"{where}: unknown key '{path}{_key(key)}'{nearest(str(key), defaults)}")
        if isinstance(value, dict) and isinstance(defaults[key], dict):
            value = merged(defaults[key], value, where, f"{path}{key}.")
        result[key] = value
    return result


def cache_folder() -> Path:
    """Where measurements of this machine are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "machina"
