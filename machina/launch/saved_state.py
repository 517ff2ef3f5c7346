"""``state.json`` of a checkpoint, and whether a checkpoint belongs to the run that reads it."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, model_validator

from machina.checkpoint import Checkpoint
from machina.checkpoint.pieces import Piece
from machina.checkpoint.typed import Amount, Count, Real, SavedFile, parsed_values
from machina.errors import UserError
from machina.launch.configuration import AnyRunConfig
from machina.metrics import WINDOW
from machina.nets.config import TorsoConfig
from machina.registry import SHIPPED
from machina.specs import EnvSpec
from machina.types import PRESENT_SELF

Protocol = dict[str, str | int | float | bool]
Games = Annotated[int, Field(ge=0, le=10**9)]
"""Games that were counted; ratings are computed from them in floats."""


_OF_ACTORS = re.compile(r"(slot\d+|opponents\d+|queue)/")
"""See ``group_key``, ``opponents_key`` and ``InlineActors.state``."""


class Identity(SavedFile):
    """Whose checkpoint it is: everything that may not differ when a run continues or its policy acts."""

    run: str = Field(description="Name of the run.")
    algorithm: str
    environment: str
    wrapper: str | None
    tasks: tuple[str, ...]
    spec: dict[str, JsonValue] = Field(description="Observations, actions, seats; the protocol is kept separately.")
    network: dict[str, JsonValue] = Field(description="The configuration of the network, where it is one of ours.")


class LearnerCounters(SavedFile):
    """What the learners of the shipped algorithms keep beside tensors: the order of minibatches is a function of it."""

    updates: Count


class SavedProgress(SavedFile):
    """See ``machina.launch.progress.Progress``; here nothing may be left out."""

    env_steps: Count
    updates: Count
    elapsed_s: Amount
    next_evaluation: Count
    unrolls_lost: Count
    env_steps_cut: Count
    faults: Count


class SavedEpisodes(SavedFile):
    """See ``machina.metrics.EpisodeTracker``; one entry per task."""

    counts: tuple[Count, ...]
    tasks: tuple[tuple[tuple[Real, Count], ...], ...]
    latest: tuple[Real, ...]

    @model_validator(mode="after")
    def _consistent(self) -> SavedEpisodes:
        if len(self.counts) != len(self.tasks):
            raise ValueError(f"episodes.counts are of {len(self.counts)} tasks, episodes.tasks of {len(self.tasks)}")
        for task, (count, episodes) in enumerate(zip(self.counts, self.tasks, strict=True)):
            if len(episodes) != min(count, WINDOW):
                raise ValueError(f"episodes.tasks.{task} are {len(episodes)} of {count} episodes")
        if len(self.latest) != min(sum(self.counts), WINDOW):
            raise ValueError(f"episodes.latest are {len(self.latest)} of {sum(self.counts)} episodes")
        return self


class SavedSnapshot(SavedFile):
    """A row of ``machina.league.pool.Pool``."""

    name: str = Field(pattern=r"^u[0-9]{6,}$")
    updates: Count
    env_steps: Count
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    quality: Real
    wins: Games
    losses: Games
    draws: Games

    @model_validator(mode="after")
    def _named_after_updates(self) -> SavedSnapshot:
        if int(self.name[1:]) != self.updates:
            raise ValueError(f"snapshot {self.name!r}: updates={self.updates}")
        return self


class SavedPool(SavedFile):
    """See ``machina.league.pool.Pool``."""

    serial: Count
    snapshots: tuple[SavedSnapshot, ...]


class SavedRatings(SavedFile):
    """See ``machina.league.results.PairResults``."""

    games: dict[str, Games]
    wins: tuple[tuple[str, str, Games], ...]
    draws: tuple[tuple[str, str, Games], ...]

    @model_validator(mode="after")
    def _of_known_players(self) -> SavedRatings:
        met: Counter[str] = Counter()
        for a, b, count in (*self.wins, *self.draws):
            met.update({a: count, b: count})
        for name, games in self.games.items():
            # A game of several teams is one between each two of them.
            if not 1 <= games <= met[name]:
                raise ValueError(f"league.ratings.games: {games} of {name!r}, wins and draws tell of {met[name]}")
        for kind, rows in (("wins", self.wins), ("draws", self.draws)):
            pairs = [(a, b) for a, b, _ in rows]
            if len(set(pairs)) < len(pairs):
                raise ValueError(f"league.ratings.{kind} name a pair twice")
            for a, b in pairs:
                if a == b or not {a, b} <= self.games.keys() or (kind == "draws" and a > b):
                    raise ValueError(f"league.ratings.{kind}: {a!r} and {b!r} are not a pair of league.ratings.games")
        return self


class SavedLeague(SavedFile):
    """See ``machina.launch.self_play.League``."""

    pool: SavedPool
    ratings: SavedRatings
    rated: tuple[str, ...]
    games: dict[Literal["self", "pool"], Count]

    @model_validator(mode="after")
    def _of_known_snapshots(self) -> SavedLeague:
        names = [snapshot.name for snapshot in self.pool.snapshots]
        for kind, of in (("pool.snapshots", names), ("rated", self.rated)):
            if twice := [name for name in of if list(of).count(name) > 1]:
                raise ValueError(f"league.{kind} names {twice[0]!r} twice")
        if unknown := [name for name in self.rated if name not in names]:
            raise ValueError(f"league.rated names {unknown[0]!r}, which is not in league.pool.snapshots")
        if PRESENT_SELF in self.ratings.games:
            raise ValueError(
                f"league.ratings.games names {PRESENT_SELF!r}; only snapshots and scripted players are rated"
            )
        return self


class SavedState(SavedFile):
    """``state.json``."""

    identity: Identity
    protocol: Protocol = Field(description="How episodes are run.")
    learner: dict[str, JsonValue] = Field(description="``LearnerState.values``: a user's algorithm has its own.")
    episodes: SavedEpisodes
    progress: SavedProgress
    unrolls_at_hand: Count = Field(description="Collected but not in the checkpoint: lost when the run continues.")
    league: SavedLeague | None = None
    replay: tuple[Piece, ...] = Field(default=(), description="The files that hold the replay; none: it is not kept.")

    @model_validator(mode="after")
    def _consistent(self) -> SavedState:
        if len(self.episodes.counts) != len(self.identity.tasks):
            raise ValueError(
                f"episodes are of {len(self.episodes.counts)} tasks, identity.tasks are {len(self.identity.tasks)}"
            )
        return self


def identity_of(config: AnyRunConfig, spec: EnvSpec) -> Identity:
    """What a run writes into its checkpoints, and what it asks of them."""
    network = getattr(config.algo, "network", None)
    return Identity(
        run=str(config.name),
        algorithm=config.algorithm,
        environment=config.environment,
        wrapper=config.wrapper,
        tasks=spec.tasks,
        spec=json.loads(spec.model_dump_json(exclude={"name", "tasks", "protocol"})),
        network=network.model_dump(mode="json") if isinstance(network, TorsoConfig) else {},
    )


def checkpoint_state(checkpoint: Checkpoint) -> SavedState:
    """The state of any run's checkpoint.

    Raises:
        UserError: it is not what a run writes.
    """
    where = f"checkpoint file '{checkpoint.path / 'state.json'}'"
    state = parsed_values(SavedState, checkpoint.values, where, _remedy(checkpoint))
    if state.progress.env_steps != checkpoint.step:
        raise UserError(
            f"{where}: progress.env_steps={state.progress.env_steps}, the checkpoint is of env step {checkpoint.step}; "
            f"{_remedy(checkpoint)}"
        )
    if state.identity.algorithm in SHIPPED:
        _check_learner(state, where, _remedy(checkpoint))
    for group in ("model", "plane"):
        if group not in checkpoint.tensors:
            raise UserError(f"checkpoint '{checkpoint.path}' has no {group}.safetensors; {_remedy(checkpoint)}")
    for name in checkpoint.tensors["plane"]:
        if not _OF_ACTORS.match(name):
            raise UserError(
                f"checkpoint file '{checkpoint.path / 'plane.safetensors'}' holds {name!r}, which is of no group, "
                f"queue or opponents; {_remedy(checkpoint)}"
            )
    return state


def _check_learner(state: SavedState, where: str, remedy: str) -> None:
    """Refuse counters of a learner of ours that are others, or more, than the run's.

    Raises:
        UserError: they are.
    """
    learned = parsed_values(LearnerCounters, state.learner, f"{where}: learner", remedy)
    for name, number in learned.model_dump().items():
        counted = getattr(state.progress, name)
        if number > counted:
            raise UserError(f"{where}: learner.{name}={number} is more than progress.{name}={counted}; {remedy}")


def own_state(checkpoint: Checkpoint, config: AnyRunConfig, spec: EnvSpec) -> SavedState:
    """The state of a checkpoint that must be of this run.

    Args:
        checkpoint: with its checksums verified.
        config: of the run.
        spec: of its environment.

    Raises:
        UserError: the state is damaged, or of a run with another name, algorithm, environment or network.
    """
    state = checkpoint_state(checkpoint)
    if (state.league is None) != (config.league.snapshot_updates is None):
        has = "no league" if state.league is None else "a league"
        raise UserError(
            f"checkpoint '{checkpoint.path}' has {has}, but league.snapshot_updates is "
            f"{config.league.snapshot_updates} in the run's config.yaml; put it back"
        )
    theirs, ours = _flat(state.identity, state.protocol), _flat(identity_of(config, spec), spec.protocol)
    for name in {**ours, **theirs}:
        if theirs.get(name, _ABSENT) != ours.get(name, _ABSENT):
            raise UserError(
                f"checkpoint '{checkpoint.path}': {name} is {_shown(theirs, name)}, by the run's config.yaml "
                f"{_shown(ours, name)}; put it back, or start another run with --init-from"
            )
    return state


_ABSENT = object()
"""Unlike any value that a file can hold; None is one."""


def _flat(identity: Identity, protocol: Protocol) -> dict[str, Any]:
    """What is compared, by the names that a user knows."""
    return {
        "the run's name": identity.run,
        "algorithm": identity.algorithm,
        "environment": identity.environment,
        "wrapper": identity.wrapper,
        **{f"network.{name}": value for name, value in identity.network.items()},
        "tasks": identity.tasks,
        **{f"the environment's {name}": value for name, value in identity.spec.items()},
        **{f"the protocol's {name}": value for name, value in protocol.items()},
    }


def _shown(compared: dict[str, Any], name: str) -> str:
    if name not in compared:
        return "absent"
    text = repr(compared[name])
    return text if len(text) < 200 else f"{text[:200]}…"


def _remedy(checkpoint: Checkpoint) -> str:
    return f"remove '{checkpoint.path}' to continue from the one before"
