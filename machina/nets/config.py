"""Configuration of the networks. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from machina.config import Config
from machina.defaults import with_default

ImageLayout = Literal["auto", "HWC", "CHW"]
MOST_UNITS = 65_536
MOST_LAYERS = 64
Units = Annotated[int, Field(ge=1, le=MOST_UNITS)]
Pixels = Annotated[int, Field(ge=1, le=1024)]


class TorsoConfig(Config):
    """What every network has: from observations to features, with an optional LSTM."""

    torso: Literal["auto", "shallow", "deep", "mlp", "units"] = Field(
        default="auto",
        description="shallow: convolutions and one hidden layer; deep: IMPALA's residual net (arXiv 1802.01561, "
        "figure 3); mlp: hidden layers only; units: an observation array `units` as a set, each embedded alike, then "
        "the maximum over them (arXiv 1912.06680, figure 17); auto: units where there is such an array, shallow for "
        "images, joined with whatever else there is, mlp without images.",
    )
    image_layout: ImageLayout = Field(
        default="auto",
        description="Order of the axes of observed images and boards: height, width, channels, or channels first. "
        "auto: two equal neighbours are height and width; otherwise the last axis has the channels if it is the "
        "shortest, else the first.",
    )
    observation_divisor: float | None = Field(
        default=None,
        ge=1e-6,
        le=1e12,
        description="Observed bytes, images and boards are divided by this; 1: taken as they are. None: by the "
        "largest bound of their space, if that is more than 1 and at most 65,535.",
    )
    filters: tuple[Units, ...] = Field(
        default=(32, 64, 64),
        min_length=1,
        max_length=MOST_LAYERS,
        description="Shallow net: filters of each convolution (as DQN).",
    )
    kernels: tuple[Pixels, ...] = Field(
        default=(8, 4, 3), min_length=1, max_length=MOST_LAYERS, description="Shallow net: kernel sizes, pixels."
    )
    strides: tuple[Pixels, ...] = Field(
        default=(4, 2, 1), min_length=1, max_length=MOST_LAYERS, description="Shallow net: strides, pixels."
    )
    hidden_sizes: tuple[Units, ...] | None = Field(
        default=None,
        max_length=MOST_LAYERS,
        description="Units of the hidden layers; None: 512 for shallow (as DQN), 256 for deep (as IMPALA), "
        "128,128 for mlp and units.",
    )
    lstm_size: int = Field(
        default=0, ge=0, le=MOST_UNITS, description="Units of an LSTM after the torso (256 in IMPALA); 0: feed-forward."
    )
    lstm_reads_last_step: bool = Field(
        default=True, description="The LSTM is fed the action and the reward before each observation (as IMPALA)."
    )
    layer_norm: bool = Field(
        default=False,
        description="Layer normalization before every activation of the torso (arXiv 1607.06450); of images over "
        "channels and places together.",
    )
    observation_filter: bool = Field(
        default=False,
        description="Observed floats: their running mean is subtracted, they are divided by their running deviation "
        "and clipped to [-5, 5] (arXiv 1912.06680, appendix E).",
    )

    @model_validator(mode="after")
    def _as_many_of_each(self) -> Self:
        if not len(self.filters) == len(self.kernels) == len(self.strides):
            raise ValueError(
                f"filters, kernels and strides need one number per convolution each, got {len(self.filters)}, "
                f"{len(self.kernels)} and {len(self.strides)}"
            )
        return self

    @model_validator(mode="after")
    def _has_what_reads(self) -> Self:
        if not self.lstm_size and not self.lstm_reads_last_step:
            raise ValueError("lstm_reads_last_step=False: there is no LSTM; leave it out, or choose --lstm-size")
        return self


class NetworkConfig(TorsoConfig):
    """An actor-critic network: torso, optional LSTM, policy head, and one value head per task."""

    separate_value: bool = Field(
        default=False, description="The value function gets a torso of its own (as PPO's networks for MuJoCo)."
    )
    initial_log_deviation: float = Field(
        default=0.0,
        ge=-20,
        le=20,
        description="Continuous actions: logarithm of the policy's standard deviation at the start.",
    )
    separate_roles: bool = Field(
        default=False, description="Each role, or each task, has a network of its own; otherwise all share one."
    )
    network_name: str | None = Field(
        default=None,
        description="A network of your own instead: a registered name, or module:function.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.separate_value and self.lstm_size:
            raise ValueError(f"separate_value needs lstm_size=0, got {self.lstm_size}: one LSTM serves both heads")
        return self


class QNetworkConfig(TorsoConfig):
    """A Q-network: torso, optional LSTM, one number per action."""

    layer_norm: bool = Field(
        default=True,
        description="Layer normalization before every activation of the torso (arXiv 2407.04811); of images over "
        "channels and places together, where the published code has channels only.",
    )
    task_heads: bool = Field(default=False, description="Each task has a head of its own; else all share one.")


class ValueNetworkConfig(QNetworkConfig):
    """A Q-network with the parts of Rainbow (arXiv 1710.02298), each on its own."""

    layer_norm: bool = with_default(TorsoConfig, "layer_norm", False)
    task_heads: bool = with_default(QNetworkConfig, "task_heads", True)
    dueling: bool = Field(
        default=False,
        description="Separate streams for the state's value and the actions' advantages (arXiv 1511.06581); each has "
        "the last of the hidden layers for itself, or one as wide as the LSTM.",
    )
    atoms: int = Field(
        default=1,
        ge=1,
        le=10_000,
        description="Atoms of the distribution of returns (51 in C51, arXiv 1707.06887); 1: its mean alone.",
    )
    v_min: float = Field(default=-10.0, ge=-1e12, le=1e12, description="Least return of the distribution.")
    v_max: float = Field(default=10.0, ge=-1e12, le=1e12, description="Greatest return of the distribution.")
    noise: Literal["none", "factorised", "independent"] = Field(
        default="none", description="Noisy dense layers of the head explore (NoisyNet, arXiv 1706.10295)."
    )
    sigma0: float = Field(
        default=0.5, gt=0, le=1000, description="Factorised noise: its deviation starts at this / sqrt(inputs)."
    )
    noisy_layers: Literal["all", "value"] = Field(
        default="all", description="Which layers of the head are noisy: all of them, or the value stream's only."
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.atoms > 1 and self.v_min >= self.v_max:
            raise ValueError(f"v_min={self.v_min:g} must be less than v_max={self.v_max:g}")
        if self.noise != "none" and self.noisy_layers == "value" and not self.dueling:
            raise ValueError("noisy_layers=value needs dueling: only then is there a value stream")
        return self
