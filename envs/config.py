"""Configuration of the environments. Imports no environment library."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from machina.config import EnvConfig


class AtariConfig(EnvConfig):
    """Atari protocol. Defaults are those of the IMPALA and PopArt papers (no sticky actions, 30 no-ops)."""

    envs_per_task: int = Field(
        default=16, ge=1, le=100_000, description="Environments (slots) per game, over all actors."
    )
    sticky_actions: float = Field(default=0.0, ge=0, lt=1, description="Probability that an action is repeated.")
    noop_max: int = Field(
        default=30, ge=0, le=10_000, description="Most no-op frames at the start of an episode: 0 to this many, evenly."
    )
    fire_reset: bool = Field(default=False, description="Press fire after a reset.")
    life_loss_ends_return: bool = Field(
        default=True, description="Zero discount when a life is lost; the episode itself continues."
    )
    frame_cap: int = Field(default=108_000, ge=1, le=10**9, description="Frames after which an episode is truncated.")
    frame_skip: int = Field(default=4, ge=1, le=1000, description="Frames per env step (action repeats).")
    max_pool: bool = Field(default=True, description="Pixel-wise maximum of the last two frames of a step.")
    frame_stack: int = Field(default=4, ge=1, le=256, description="Frames in one observation.")
    full_action_space: bool | None = Field(
        default=None, description="All 18 actions; None: with several games all, with one game its minimal set."
    )

    @property
    def frames_per_task(self) -> int:
        """200M frames per game, as in the IMPALA and PopArt papers."""
        return 200_000_000


class GymnasiumConfig(EnvConfig):
    """Any gymnasium id."""

    processes: bool | None = Field(
        default=None,
        description="Step in worker processes; None: yes unless the environment has a vectorized form of its own.",
    )
    max_steps: int | None = Field(
        default=None,
        ge=1,
        le=10**9,
        description="Env steps after which an episode is truncated, in place of the environment's own limit; None: "
        "that.",
    )
    drop_keys: tuple[str, ...] = Field(
        default=(),
        description="Keys of the observation that are left out, such as a text; in nested dictionaries a path, as in "
        "camera/left.",
    )
    info_mask: Literal["refuse", "use", "ignore"] = Field(
        default="refuse",
        description="What to do with an action_mask in the environment's infos. use: the policy obeys it; ignore: it "
        "does not; refuse: such an environment is not trained on.",
    )
    observe: Literal["state", "pixels"] = Field(
        default="state",
        description="pixels: what the environment draws, grey, 84 x 84, the last four pictures together; needs its "
        "render_mode rgb_array. state: what it returns.",
    )
    action_bins: int | None = Field(
        default=None,
        ge=2,
        le=10_000,
        description="Cut every real number of an action into this many choices; None: real numbers.",
    )


class GameConfig(EnvConfig):
    """Games for several agents: the shipped ones, and PettingZoo environments."""

    envs_per_task: int = Field(default=16, ge=1, le=100_000, description="Games at once, over all actors.")
    max_steps: int | None = Field(
        default=None,
        ge=1,
        le=10**9,
        description="Env steps (of a turn-based game: turns) after which a game is truncated; None: the game's own "
        "limit.",
    )
    teams: str | None = Field(
        default=None,
        description="Teams of a PettingZoo environment. names: agents whose names agree before the last _ are one "
        "team. agents: each is its own. Otherwise the teams by their agents' names, such as "
        "redmelee+redranged,bluemelee+blueranged; patterns (red*,blue*) may stand for names. None: names.",
    )


class ToyConfig(EnvConfig):
    """The small tasks of machina.envs.toys."""
