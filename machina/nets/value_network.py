"""The network of the value-based algorithms with a replay: dueling streams, distributions of returns, noisy layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from machina.nets.config import ValueNetworkConfig
from machina.nets.network import CoreTensors, NetworkInput, start_orthogonal
from machina.nets.noisy import NoisyLinear, quiet, redraw
from machina.nets.q_network import QNetwork, QOutput
from machina.nets.reading import read
from machina.nets.torsos import hidden_sizes
from machina.specs import EnvSpec


class ValueNetwork(QNetwork):
    """A Q-network whose head may be dueling (arXiv 1511.06581), distributional (1707.06887) and noisy (1706.10295).

    With dueling streams the torso's last hidden layer is there twice, once in each stream; behind an LSTM each stream
    has one as wide as that.
    """

    def __init__(self, spec: EnvSpec, config: ValueNetworkConfig) -> None:
        """Raises UserError when the torso or the filter asked for does not suit the observation."""
        sizes = hidden_sizes(read(spec, config).torso, config)
        divided = config.dueling and not config.lstm_size and sizes
        super().__init__(spec, config.model_copy(update={"hidden_sizes": sizes[:-1]}) if divided else config)
        self.config = config
        self.stream_size = sizes[-1] if divided else config.lstm_size or self.encoder.output_size
        self.num_actions = sum(spec.action.choices)
        self.support: Tensor | None = None
        if config.atoms > 1:
            self.support = torch.linspace(config.v_min, config.v_max, config.atoms)
        features = config.lstm_size or self.encoder.output_size
        outputs = self.num_heads * config.atoms
        self.value_stream: nn.Sequential | None = None
        everywhere = config.noisy_layers == "all"
        self.q_head = self._stream(features, outputs * self.num_actions, noisy=everywhere)
        if config.dueling:
            self.value_stream = self._stream(features, outputs, noisy=True)

    def _stream(self, features: int, outputs: int, *, noisy: bool) -> nn.Sequential:
        """Of dueling streams each has a hidden layer of its own."""
        config = self.config
        layers: list[nn.Module] = []
        if config.dueling:
            layers += [self._layer(features, self.stream_size, math.sqrt(2), noisy), nn.ReLU()]
            features = self.stream_size
        layers.append(self._layer(features, outputs, 0.01, noisy))
        return nn.Sequential(*layers)

    def _layer(self, inputs: int, outputs: int, gain: float, noisy: bool) -> nn.Module:
        config = self.config
        if noisy and config.noise != "none":
            return NoisyLinear(inputs, outputs, config.noise, config.sigma0)
        layer = nn.Linear(inputs, outputs)
        start_orthogonal(layer, gain)
        return layer

    def redraw(self, generator: torch.Generator) -> None:
        """Draw all noise anew; it stays the same until the next call."""
        redraw(self, generator)

    def quiet(self) -> None:
        """No noise from now on."""
        quiet(self)

    def _head(self, features: Tensor, inputs: NetworkInput, core_state: CoreTensors) -> QOutput:
        """From ``[T, B, features]``; per atom V + A - mean(A) before the softmax, as in Rainbow."""
        own = self._of_task(self.q_head(features), inputs.task_id)
        own = own.reshape(*own.shape[:-1], self.num_actions, -1)
        if self.value_stream is not None:
            value = self._of_task(self.value_stream(features), inputs.task_id).unsqueeze(-2)
            own = value + own - own.mean(dim=-2, keepdim=True)
        if self.support is None:
            return QOutput(own.squeeze(-1), core_state)
        if self.support.device != own.device:
            self.support = self.support.to(own.device)
        return QOutput((own.softmax(dim=-1) * self.support).sum(dim=-1), core_state, own)
